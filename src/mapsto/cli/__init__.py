"""The command line: one small file a verb. `entry` holds `main`, since a verb named `list` would hide Python's here."""

from .entry import main

__all__ = ["main"]
