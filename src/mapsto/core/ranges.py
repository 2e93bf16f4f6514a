"""Ranges of numbers as types: `decay: Share` says in the signature what may be stated, so a value that cannot be is told
before anything is built. Mappings of one's own say it the same way, by `Annotated[float, pydantic.Field(ge=0)]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

Share = Annotated[float, Field(ge=0, le=1)]
"""A probability, or a part of a whole."""

BelowOne = Annotated[float, Field(ge=0, lt=1)]
"""What an average keeps of itself, such as a momentum."""

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite number of at least 0, such as a learning rate."""

Factor = Annotated[float, Field(gt=0, le=1)]
"""What something is multiplied by that grows no larger by it."""

AtLeastOne = Annotated[float, Field(ge=1, allow_inf_nan=False)]
"""What something is multiplied by that grows no smaller by it."""

Positive = Annotated[float, Field(gt=0)]
"""A number above 0; infinity, such as the order of the maximum norm, is one."""

Whole = Annotated[int, Field(ge=0)]
"""A number of things."""

Count = Annotated[int, Field(ge=1)]
"""A number of things of which there is at least one."""

_SIZES = (
    *("width", "hidden", "hidden_size", "channels", "features", "heads", "num_heads"),
    *("vocabulary", "vocab_size", "context", "classes", "num_classes"),
    *("in_features", "out_features", "in_channels", "out_channels", "num_embeddings", "embedding_dim", "kernel_size"),
)
CONVENTIONS: Mapping[str, Mapping[str, Any]] = {
    "optimizer": {
        **dict.fromkeys(("lr", "weight_decay", "eps", "lr_decay"), NonNegative),
        **dict.fromkeys(("momentum", "betas"), BelowOne),
        "rho": Share,
    },
    "schedule": {
        **dict.fromkeys(("base_lr", "max_lr", "eta_min", "min_lr", "gamma"), NonNegative),
        **dict.fromkeys(("T_max", "T_0", "T_mult", "step_size", "step_size_up"), Positive),
    },
    **{kind: {**dict.fromkeys(_SIZES, Positive), "dropout": Share} for kind in ("model", "layer")},
}
"""What every mapping of a kind means by an option of such a name, whatever package it is from; of several numbers (the betas)
each. What its own signature says of a range comes first."""
