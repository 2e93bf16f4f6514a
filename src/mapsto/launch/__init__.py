"""Starting the ranks of a run, watching them, telling which one failed first and starting them again; imports core only."""
