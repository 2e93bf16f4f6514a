"""Processes of this machine that can be started in milliseconds, heard, and ended for certain with all that they started.

The checker's workers and the ranks of a run are forks of one process that has imported what they need. Imports core only.
"""
