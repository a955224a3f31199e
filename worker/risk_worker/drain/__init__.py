"""The data path without drivers: what a batch is, and in which order it is handled."""
