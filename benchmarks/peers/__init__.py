"""What else stores what comes by Redis, each as its own documentation has it, beside riskstream."""
