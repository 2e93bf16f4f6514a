"""Strict mode: the weights of one process bit for bit, on any number of ranks."""
