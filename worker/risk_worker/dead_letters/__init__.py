"""Dead letters: list, show, retry and drop."""
