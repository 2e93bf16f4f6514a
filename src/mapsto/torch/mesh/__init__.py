"""The mesh: one description of devices, under which a program of one process becomes one of many."""
