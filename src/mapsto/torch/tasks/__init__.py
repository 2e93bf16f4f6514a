"""Tasks: (model, batch) -> (total, weight, outputs). The adaptation layer between data and model.

A task may be any function of that signature. The classes here also predict, measure and show.
"""

from .base import Pair, Task, task
from .classification import Classification
from .intervals import Gaussian, Quantiles
from .language_model import LanguageModel
from .multi_label import MultiLabel
from .ordinal import Ordinal
from .regression import Regression
from .sequence_labelling import SequenceLabelling
from .survival import Survival

__all__ = [
    "Classification",
    "Gaussian",
    "LanguageModel",
    "MultiLabel",
    "Ordinal",
    "Pair",
    "Quantiles",
    "Regression",
    "SequenceLabelling",
    "Survival",
    "Task",
    "task",
]
