"""The laws of data, a file a kind: sources, orders, readers (mapsto's own and anyone's that is iterated), transforms."""
