"""The report of a day: one HTML file about all traders, that needs nothing else to be read."""
