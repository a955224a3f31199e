"""Pictures of what the questions answer: for a file, a page or a terminal. It asks nothing itself."""
