"""Whether what is stored is what was stored: seals over history, in a chain."""
