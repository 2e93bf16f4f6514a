"""How the laws drive what is native to PyTorch: a driver a kind (`mapsto.laws.drivers`), with the examples that it needs."""
