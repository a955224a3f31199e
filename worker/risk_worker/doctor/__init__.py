"""Tries every link that the system needs, and says what to do where one is not as it should be."""
