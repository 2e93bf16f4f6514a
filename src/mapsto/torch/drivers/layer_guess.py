"""Constructor arguments of a layer guessed from their names, annotations and defaults."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

WIDTH, OTHER, HEADS, DEPTH, VOCABULARY, LENGTH, CLASSES = 8, 6, 2, 2, 16, 16, 5
"""Sizes that are small, divide where they must (heads, groups), and differ where a mistake should show (in and out)."""

NAMES: tuple[tuple[str, Any], ...] = (
    (r"in(put)?1?_(features|channels|dims?|size|planes)|(d|dim|channels|features|c|ch)_in|in_?(dim|ch|c)", WIDTH),
    (r"in2_(features|dim)", OTHER),
    (r"(out(put)?|proj|target)_(features|channels|dims?|planes)|(d|dim|channels|features|c|ch)_out|out_?(dim|ch|c)", OTHER),
    (r"(num_|n_)?(heads|nhead)|n_?heads?|num_attention_heads|attention_heads", HEADS),
    (r"(num_|n_)?((encoder_|decoder_|hidden_)?layers|blocks|depth)", DEPTH),
    (r"(max_?)?(seq(uence)?_?len(gth)?|len(gth)?|context(_length|_size)?|block_size|positions?|max_position_embeddings|steps)",
     LENGTH),
    (r"(num_embeddings|vocab(ulary)?(_size)?|num_tokens|n_?tokens|n_vocab|num_items|num_users)", VOCABULARY),
    (r"(num_|n_)?(classes|labels|targets|outputs)", CLASSES),
    (r"(num_|n_)?(groups|experts|stages)|top_?k|k|reduction|ratio|.*_(ratio|factor|multiplier)|expansion|stride|dilation|"
     r"num_parameters", 2),
    (r"kernel(_size|_width)?|window(_size)?|patch(_size)?", 3),
    (r"padding", 1),
    (r"output_size|size", 4),
    (r"p|drop(out)?(_?p|_prob|_rate)?|.*_?(dropout|drop)|.*prob(ability)?", 0.1),
    (r"eps(ilon)?", 1e-5),
    (r"(min|lower)(_val)?", 0.0),
    (r"(max|upper)(_val)?", 1.0),
    (r"threshold|value|alpha|beta|gamma|lambd|negative_slope|momentum|scale|temperature|std|sigma", 0.5),
    (r"axis", -1),
    (r"bias|causal|batch_first|affine|bidirectional", False),
    (r"normalized_shape|shape", WIDTH),
    (r"activation|act(_layer|_fn)?|nonlinearity", nn.GELU),
    (r"norm(_layer)?", nn.LayerNorm),
    (r".*(dim|size|features|channels|hidden|width|units|planes|embed(ding)?|model|filters).*|d|c|n|ch", WIDTH),
)  # fmt: skip

SPECIAL: dict[str, dict[str, Any]] = {
    "Softmax": {"dim": -1}, "LogSoftmax": {"dim": -1}, "Softmin": {"dim": -1}, "GLU": {},
    "Threshold": {"threshold": 0.1, "value": 2.0},
    "Unflatten": {"dim": 1, "unflattened_size": (2, 4)}, "Upsample": {"scale_factor": 2},
    "UpsamplingNearest2d": {"scale_factor": 2},
    "UpsamplingBilinear2d": {"scale_factor": 2}, "PixelShuffle": {"upscale_factor": 2},
    "PixelUnshuffle": {"downscale_factor": 2},
    "ChannelShuffle": {"groups": 2}, "Fold": {"output_size": (4, 5), "kernel_size": (2, 3)},
    "LPPool1d": {"norm_type": 2, "kernel_size": 3},
    "LPPool2d": {"norm_type": 2, "kernel_size": 3}, "LPPool3d": {"norm_type": 2, "kernel_size": 3},
    "FractionalMaxPool2d": {"kernel_size": 2, "output_ratio": 0.5}, "FractionalMaxPool3d": {"kernel_size": 2,
    "output_ratio": 0.5},
    "AdaptiveLogSoftmaxWithLoss": {"in_features": 8, "n_classes": 12, "cutoffs": [4]},
    "Transformer": {"d_model": 8, "nhead": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "dim_feedforward": 16},
    "TransformerEncoderLayer": {"d_model": 8, "nhead": 2, "dim_feedforward": 16},
    "TransformerDecoderLayer": {"d_model": 8, "nhead": 2, "dim_feedforward": 16},
}  # fmt: skip
"""What PyTorch's own layers mean by arguments whose names tell too little."""


class Unguessable(Exception):
    """A required argument for which neither name, annotation nor default tells a value."""


def required(target: Any) -> dict[str, inspect.Parameter]:
    """The arguments a class or factory cannot do without."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {}
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {n: p for n, p in parameters.items() if p.default is p.empty and p.kind not in kinds}


def guesses(target: Any, stated: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Arguments to try, first with different sizes in and out, then with equal ones. Raises Unguessable."""
    missing = {n: p for n, p in required(target).items() if n not in stated}
    special = SPECIAL.get(getattr(target, "__name__", "")) if getattr(target, "__module__", "").startswith("torch.nn") else None
    if special is not None and not stated:
        yield dict(special)
        return
    first = {n: guess(n, p.annotation) for n, p in missing.items()}
    yield {**stated, **first}
    equal = {n: WIDTH if v == OTHER and isinstance(v, int) else v for n, v in first.items()}
    if equal != first:
        yield {**stated, **equal}
    axes = {n: -1 if n == "dim" else v for n, v in first.items()}
    if axes != first:
        yield {**stated, **axes}


def guess(name: str, annotation: Any) -> Any:
    """A value for one argument. Raises Unguessable."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    plain = name.strip("_").lower()
    for pattern, value in NAMES:
        if re.fullmatch(pattern, plain):
            return _fitting(value, text)
    by_type = {"bool": False, "float": 0.5, "int": 4, "dtype": torch.float32}
    if text in by_type:
        return by_type[text]
    if annotation is not inspect.Parameter.empty and ("None" in text or "Optional" in text):
        return None
    if inspect.isclass(annotation) and issubclass(annotation, nn.Module) and annotation is not nn.Module:
        wanted: Any = annotation
        return wanted(**next(guesses(wanted, {})))
    raise Unguessable(f"{name}: {text}" if annotation is not inspect.Parameter.empty else name)


def _fitting(value: Any, text: str) -> Any:
    """A guess by name in the type that the annotation asks for: an instance for a module, a tuple for a shape."""
    if inspect.isclass(value):
        wants_class = "type" in text.lower() or "callable" in text.lower() or text.endswith("_empty")
        kind: Any = value
        made = kind if wants_class else (kind() if kind is nn.GELU else kind(WIDTH))
        return "gelu" if text == "str" else made
    if isinstance(value, int) and not isinstance(value, bool):
        if text in ("float",):
            return float(value)
        if text == "bool":
            return False
        if text.startswith(("tuple[int, int]", "Tuple[int, int]")):
            return (value, value)
        if text.startswith(("list[int]", "List[int]", "Sequence[int]", "tuple[int, ...]", "Tuple[int, ...]")):
            return [value, value]
    return value
