"""How the whole system is now, what is wrong with it, and what to do."""
