"""The state machine of a producer: no network, no threads, no waiting."""
