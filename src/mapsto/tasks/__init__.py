"""What tasks of every wing share: fields of a batch, the book-keeping of metrics, and panels, on NumPy."""
