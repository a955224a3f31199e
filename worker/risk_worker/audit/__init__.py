"""Whether what was accepted is what is stored."""
