"""How the running system is doing."""
