"""Questions about what is stored: as commands and from Python. Reads only."""
