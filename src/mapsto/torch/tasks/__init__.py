"""Tasks: (model, batch) -> (total, weight, outputs). The adaptation layer between data and model.

A task may be any function of that signature. The classes here also predict, measure and show.
"""

from .base import Pair, Task, task
from .classification import Classification
from .language_model import LanguageModel
from .multi_label import MultiLabel
from .regression import Regression

__all__ = ["Classification", "LanguageModel", "MultiLabel", "Pair", "Regression", "Task", "task"]
