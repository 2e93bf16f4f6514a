"""Sources, orders, readers and transforms: position -> batch. Imports NumPy and no framework."""

import warnings
from typing import TYPE_CHECKING, Any

from .adapt import as_source
from .arrays import Arrays
from .augment import RandomCrop, RandomFlip, RandomShift
from .bucket import Bucketed
from .combine import Concatenated
from .draws import Balanced, Curriculum, Weighted
from .folders import ImageFolder, TextFolder
from .huggingface import HuggingFace
from .items import Items
from .lines import JsonLines, TextLines
from .loader import Loader
from .mixture import Interleaved, Mixture
from .order import Sequential, Shuffled
from .pad import Pad
from .reader import Batches
from .series import Windows
from .source import Source, check_indices
from .splits import Fold, Split
from .stream import PaddingBatch, Stream
from .tables import Arrow, ArrowTable, Csv, Parquet
from .tabular import EncodeCategories, FillMissing, Stack
from .text import TokeniseBytes, TokeniseWith, TokeniseWords
from .tokens import TokenBlocks
from .transforms import EncodeLabels, Normalise, OneHot, Rename, Scale, Select
from .vocabulary import Vocabulary

__all__ = [
    "Arrays",
    "Arrow",
    "ArrowTable",
    "Balanced",
    "Batches",
    "Bucketed",
    "Concatenated",
    "Csv",
    "Curriculum",
    "EncodeCategories",
    "EncodeLabels",
    "FillMissing",
    "Fold",
    "HuggingFace",
    "ImageFolder",
    "Interleaved",
    "Items",
    "JsonLines",
    "Loader",
    "Mixture",
    "Normalise",
    "OneHot",
    "Pad",
    "PaddingBatch",
    "Parquet",
    "RandomCrop",
    "RandomFlip",
    "RandomShift",
    "Rename",
    "Scale",
    "Select",
    "Sequential",
    "Shuffled",
    "Source",
    "Split",
    "Stack",
    "Stream",
    "TextFolder",
    "TextLines",
    "TokenBlocks",
    "TokeniseBytes",
    "TokeniseWith",
    "TokeniseWords",
    "Vocabulary",
    "Weighted",
    "Windows",
    "as_source",
    "check_indices",
]

if not TYPE_CHECKING:  # a type checker that saw this would take any name

    def __getattr__(name: str) -> Any:
        if name == "StandIn":  # what it was called before
            warnings.warn("mapsto.data.StandIn is called PaddingBatch now", DeprecationWarning, stacklevel=2)
            return PaddingBatch
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
