"""What a rank keeps of a model whose sections lie on several: its own modules and parameters, under their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from ....core.errors import SpecError
from ..one import local
from .sections import Section, sections


class NotHere(SpecError, AttributeError):
    """A part of the model that another rank has; for those who only look whether there is such an attribute, there is none."""


class Elsewhere(nn.Module):
    """In the place of a module that another rank has."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        raise self._not_here()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise self._not_here() from None

    def _not_here(self) -> NotHere:
        return NotHere(f"mesh.pipeline: {self.name!r} lies on another stage: the piece that uses it does not name it")


@dataclass
class LocalStages:
    """sections: of this rank, by stage; words: of every stage; everywhere: every parameter's name and whether it is trained;
    dtypes: of the norms of all parameters; order: the names of the trained ones as one process's optimizer has them; names: of
    this rank's parameters, as one process calls them; tied: parameters that other stages have too, with the group of these;
    copies: those of them that count elsewhere; keys: of the whole model's state; elsewhere: those of them that other ranks
    have."""

    sections: dict[int, Section]
    words: list[str]
    everywhere: dict[str, bool]
    followed: bool
    sizes: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    tied: list[tuple[nn.Parameter, dist.ProcessGroup]] = field(default_factory=list)
    copies: set[int] = field(default_factory=set)
    keys: frozenset[str] = frozenset()
    elsewhere: frozenset[str] = frozenset()

    def summary(self) -> dict[str, int]:
        """The sizes of the whole model, of which this rank holds a stage, for people."""
        trained = sum(size for name, size in self.sizes.items() if self.everywhere[name])
        return {"parameters": sum(self.sizes.values()), "trainable": trained}

    def local_state(self, tree: Mapping[str, Any]) -> Mapping[str, Any]:
        """Of the state of a whole program what belongs to this rank's parameters and buffers."""
        return {key: self._own(value) if key in ("model", "optimizer", "middleware") else value for key, value in tree.items()}

    def _own(self, value: Any) -> Any:
        """Without the entries of mappings and lists by parameter name that lie elsewhere."""
        if isinstance(value, Mapping):
            by_name = bool(value) and value.keys() <= self.keys
            return {k: self._own(v) for k, v in value.items() if not (by_name and k in self.elsewhere)}
        if isinstance(value, list):
            return [self._own(v) for v in value if not (isinstance(v, str) and v in self.elsewhere)]
        return value

    def sum_tied(self) -> None:
        """Sum the gradients of a parameter over the stages that use it, so that it stays one."""
        for parameter, group in self.tied:
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(local(parameter.grad), group=group)


def keep(model: nn.Module, total: int, own: Sequence[int], mesh: DeviceMesh, split: Sequence[str] | None) -> LocalStages:
    """Cut the model into `total` stages and leave in it what those of this rank need."""
    cut = sections(model, total, split)
    ranks = mesh.size()
    every = list(model.named_parameters(remove_duplicate=False))
    canonical = {id(p): n for n, p in reversed(every)}
    holders: dict[int, set[int]] = {}
    for name, parameter in every:
        for stage, section in enumerate(cut):
            if _needed(name, section.uses):
                holders.setdefault(id(parameter), set()).add(stage % ranks)
    if unused := [n for n, p in every if id(p) not in holders and p.requires_grad]:
        raise SpecError(f"mesh.pipeline: no stage uses {unused[0]!r}, so that no rank would train it: freeze or remove it")
    for rank in range(ranks):
        if not any(p.requires_grad and rank in holders.get(id(p), ()) for _, p in every):
            raise SpecError(
                f"mesh.pipeline: stage {rank} ({cut[rank].what}) has nothing to train: say in mesh.split where stages begin"
            )
    found = LocalStages(
        {i: cut[i] for i in own},
        [section.what for section in cut],
        {canonical[id(p)]: p.requires_grad for _, p in every},
        not hasattr(model, "pipeline_plan"),
        {canonical[id(p)]: p.numel() for _, p in every},
        {canonical[id(p)]: p.dtype.to_real() for _, p in every},
    )
    groups = _groups({frozenset(h) for h in holders.values() if len(h) > 1}, mesh)
    found.keys = frozenset(model.state_dict()) | found.everywhere.keys()
    _prune(model, frozenset().union(*(cut[i].uses for i in own)))
    own_names = {canonical[id(p)] for p in model.parameters()}
    found.elsewhere = found.keys - model.state_dict().keys() - own_names
    for parameter in model.parameters():
        found.names[id(parameter)] = canonical[id(parameter)]
        holding = frozenset(holders[id(parameter)]) if id(parameter) in holders else frozenset()
        if len(holding) > 1:
            found.tied.append((parameter, groups[holding]))
            if mesh.get_local_rank() != min(holding):
                found.copies.add(id(parameter))
    return found


def _groups(wanted: set[frozenset[int]], mesh: DeviceMesh) -> Mapping[frozenset[int], dist.ProcessGroup]:
    """A process group of this pipeline for each set of its ranks; all ranks of the world make them together."""
    made: dict[frozenset[int], dist.ProcessGroup] = {}
    column = dist.get_process_group_ranks(mesh.get_group())
    columns: list[Any] = [None] * dist.get_world_size()
    if wanted:
        dist.all_gather_object(columns, column)
    for ranks in sorted(wanted, key=sorted):
        for one in sorted({tuple(c) for c in columns}):
            group = dist.new_group([one[i] for i in sorted(ranks)], timeout=_limit(mesh))
            if list(one) == column and group is not dist.GroupMember.NON_GROUP_MEMBER:
                made[ranks] = group
    return made


def _limit(mesh: DeviceMesh) -> Any:
    return mesh.get_group()._get_backend(torch.device(mesh.device_type)).options._timeout


def _needed(name: str, uses: frozenset[str]) -> bool:
    """Whether a parameter or module lies within what is used."""
    path = name.split(".")
    return any(".".join(path[: i + 1]) in uses for i in range(len(path)))


def _prune(module: nn.Module, uses: frozenset[str], prefix: str = "") -> None:
    """Replace modules that are not used, and forget parameters and buffers that are not."""
    for own in [*module._parameters, *module._buffers]:
        if not _needed(prefix + own, uses):
            (module._parameters if own in module._parameters else module._buffers)[own] = None
    for own, child in list(module.named_children()):
        name = prefix + own
        if name in uses:
            continue
        if any(use.startswith(name + ".") for use in uses):
            _prune(child, uses, name + ".")
        else:
            module.register_module(own, Elsewhere(name))
