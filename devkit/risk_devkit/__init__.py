"""Embedded servers and the demo: for a developer's machine, never for production."""
