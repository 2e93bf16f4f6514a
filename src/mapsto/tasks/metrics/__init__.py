"""The metrics that come with mapsto, on NumPy: of classes, of scores, of numbers, of rankings, of texts."""
