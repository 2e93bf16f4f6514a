"""Planning: what a run would need of memory and move between ranks, known before it starts, on one CPU."""
