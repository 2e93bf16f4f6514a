"""What the wings of mapsto's own say of themselves: a file a framework, which imports nothing of it."""
