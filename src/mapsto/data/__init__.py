"""Sources, orders, readers and transforms: position -> batch. Imports NumPy and no framework."""

from .arrays import Arrays
from .items import Items
from .order import Sequential, Shuffled
from .reader import Batches
from .source import Source, as_source
from .stream import Stream

__all__ = ["Arrays", "Batches", "Items", "Sequential", "Shuffled", "Source", "Stream", "as_source"]
