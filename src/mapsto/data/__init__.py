"""Sources, orders, readers and transforms: position -> batch. Imports NumPy and no framework."""

from .adapt import as_source
from .arrays import Arrays
from .augment import RandomCrop, RandomFlip, RandomShift
from .bucket import Bucketed
from .combine import Concatenated, Split
from .folders import ImageFolder, TextFolder
from .huggingface import HuggingFace
from .items import Items
from .lines import JsonLines, TextLines
from .loader import Loader
from .mixture import Interleaved, Mixture
from .order import Sequential, Shuffled
from .pad import Pad
from .reader import Batches
from .source import Source, check_indices
from .stream import StandIn, Stream
from .tables import Arrow, ArrowTable, Csv, Parquet
from .text import TokeniseBytes, TokeniseWith, TokeniseWords
from .tokens import TokenBlocks
from .transforms import EncodeLabels, Normalise, OneHot, Rename, Scale, Select
from .vocabulary import Vocabulary

__all__ = [
    "Arrays",
    "Arrow",
    "ArrowTable",
    "Batches",
    "Bucketed",
    "Concatenated",
    "Csv",
    "EncodeLabels",
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
    "StandIn",
    "Stream",
    "TextFolder",
    "TextLines",
    "TokenBlocks",
    "TokeniseBytes",
    "TokeniseWith",
    "TokeniseWords",
    "Vocabulary",
    "as_source",
    "check_indices",
]
