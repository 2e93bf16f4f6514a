"""Which parameters are trained, and with which options."""

from __future__ import annotations

import functools
import glob
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ...core.compose import middleware
from ...core.doors import typed
from ...core.errors import SpecError
from ..state import Builder


@middleware("freeze")
class Freeze:
    """model -> the same model with the parameters that match not trained (`encoder` means `encoder.*` too).

    statistics: normalisation layers whose parameters are all frozen also stop learning batch statistics and use those they
    have, as in evaluation, whatever `model.train()` says; False leaves them in training mode.
    Raises SpecError with the nearest name where a pattern matches none.
    """

    @typed
    def __init__(self, patterns: Sequence[str], *, statistics: bool = True) -> None:
        self.patterns, self.statistics = tuple(patterns), statistics

    def setup(self, builder: Builder) -> None:
        frozen = set(builder.freeze(self.patterns, "freeze.patterns"))
        if not self.statistics:
            return
        for name, module in builder.model.named_modules():
            if isinstance(module, _NormBase) and module.track_running_stats:
                own = {f"{name}.{n}" if name else n for n, _ in module.named_parameters()}
                if own and own <= frozen:
                    module.eval()
                    module.train = functools.partial(_stay, module)  # type: ignore[method-assign, assignment]


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001
    return module


@middleware("param_groups")
class ParamGroups:
    """Optimizer options by parameter name: rules `{match: [patterns], lr: ..., weight_decay: ...}`.

    Each option of a parameter comes from the first rule that matches it and states that option; what no rule states is
    the optimizer's own. Raises SpecError for a rule without `match` or options, and with the nearest name where a pattern
    matches no parameter or the optimizer has no such option.
    """

    @typed
    def __init__(self, rules: Sequence[Mapping[str, Any]]) -> None:
        self.rules: list[tuple[tuple[str, ...], dict[str, Any]]] = []
        for i, rule in enumerate(rules):
            match = rule.get("match")
            options = {k: v for k, v in rule.items() if k != "match"}
            if not match or not options:
                raise SpecError(
                    f"param_groups.rules.{i}: a rule has `match` and at least one option, "
                    f'as in {{match: ["head.*"], lr: 1e-3}}, not {dict(rule)}'
                )
            self.rules.append(((match,) if isinstance(match, str) else tuple(match), options))

    def setup(self, builder: Builder) -> None:
        builder.groups.extend(self.rules)


@middleware("no_weight_decay")
class NoWeightDecay:
    """No weight decay for biases, parameters of one axis or none (norms, scales) and embeddings, as is usual for transformers.

    embeddings: False leaves embeddings decayed.
    """

    @typed
    def __init__(self, *, embeddings: bool = True) -> None:
        self.embeddings = embeddings

    def setup(self, builder: Builder) -> None:
        tables = {
            f"{name}.{n}" if name else n
            for name, module in builder.model.named_modules()
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and self.embeddings
            for n, _ in module.named_parameters(recurse=False)
        }
        names = [n for n, p in builder.model.named_parameters() if p.dim() < 2 or n.split(".")[-1] == "bias" or n in tables]
        if names:
            builder.groups.append((tuple(glob.escape(n) for n in names), {"weight_decay": 0.0}))
