"""Sparse embeddings on a worker: of each table only the rows that a pass looks up are there, and only theirs travel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import DataError

Fetch = Callable[[str, Tensor], Tensor]
"""(parameter name, row ids [n]) -> those rows [n, ...]"""


def sparse_tables(model: nn.Module) -> dict[str, nn.Module]:
    """Parameter name -> the module of each embedding table that is trained and asks for sparse gradients."""
    return {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse and module.weight.requires_grad
    }


class Tables:
    """Takes the weights of a model's sparse tables away; each look-up gets a small table of the rows it needs.

    Ids are replaced by positions in the small table, which is a leaf of the graph of its own, so that a table may be
    looked up several times in a pass, by other ids, and under activation checkpointing. rows, likes: of each table the
    number of its rows, and an empty tensor of its shape, dtype and device.
    """

    def __init__(self, model: nn.Module, fetch: Fetch) -> None:
        self.fetch = fetch
        self.rows = {name: module.weight.shape[0] for name, module in sparse_tables(model).items()}  # type: ignore[index]
        self.likes: dict[str, Tensor] = {}
        self._leaves: dict[str, list[tuple[Tensor, nn.Parameter]]] = {name: [] for name in self.rows}
        for name, module in sparse_tables(model).items():
            self._attach(name, module)

    def _attach(self, name: str, module: Any) -> None:
        empty = nn.Parameter(module.weight.detach()[:0].clone())
        padding = module.padding_idx
        module._parameters["weight"], self.likes[name] = empty, empty.detach()

        def enter(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            ids = args[0] if args else kwargs["input"]
            wanted, places = torch.unique(ids, return_inverse=True)
            self._check(name, wanted)
            leaf = nn.Parameter(self.fetch(name, wanted), requires_grad=torch.is_grad_enabled())
            self._leaves[name].append((wanted, leaf))
            module._parameters["weight"] = leaf
            if padding is not None:
                at = (wanted == padding).nonzero()
                module.padding_idx = int(at[0]) if len(at) else None
            return ((places, *args[1:]), kwargs) if args else (args, {**kwargs, "input": places})

        def leave(module: Any, *_: Any) -> None:
            module._parameters["weight"], module.padding_idx = empty, padding

        module.register_forward_pre_hook(enter, with_kwargs=True)
        module.register_forward_hook(leave, always_call=True)

    def _check(self, name: str, wanted: Tensor) -> None:
        if len(wanted) and (int(wanted[0]) < 0 or int(wanted[-1]) >= self.rows[name]):
            wrong = int(wanted[0]) if int(wanted[0]) < 0 else int(wanted[-1])
            raise DataError(f"{name}: row {wrong} was looked up, and the table has rows 0 to {self.rows[name] - 1}")

    def begin(self) -> None:
        """Forget which rows the step before looked up."""
        for leaves in self._leaves.values():
            leaves.clear()

    def gradients(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """(parameter name, distinct sorted row ids [n], summed gradients [n, ...]) of each table that was looked up."""
        for name, leaves in self._leaves.items():
            parts = [(wanted, leaf.grad) for wanted, leaf in leaves if leaf.grad is not None]
            if parts:
                yield name, *_summed([_rows(wanted, grad) for wanted, grad in parts])


def _rows(wanted: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Row ids and values of the gradient of a small table, with the rows that a pass left out (such as padding) left out."""
    if not gradient.is_sparse:
        return wanted, gradient
    gradient = gradient.coalesce()
    return wanted[gradient.indices()[0]], gradient.values()


def _summed(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(parts) == 1:
        return parts[0]
    ids, places = torch.unique(torch.cat([i for i, _ in parts]), return_inverse=True)
    values = torch.cat([v for _, v in parts])
    return ids, values.new_zeros(len(ids), *values.shape[1:]).index_add_(0, places, values)


def split_by_rows(ids: Tensor, held: Mapping[int, range]) -> dict[int, slice]:
    """Which part of sorted row ids each server holds: server -> slice of them (empty parts left out)."""
    found = {}
    for server, rows in held.items():
        low, high = (int(torch.searchsorted(ids, edge)) for edge in (rows.start, rows.stop))
        if high > low:
            found[server] = slice(low, high)
    return found
