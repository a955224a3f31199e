"""What the worker's side asks of Redis."""
