"""Examples of layers: how to build and feed one, stated by its author or found by trying what its signature suggests.

Finding runs the component, so it happens inside a trial, with its time limit and its process, and never in the caller's.
"""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ...core.calls import fresh
from ...core.laws import Example, Subject, Trial
from ...core.random import derive
from ...laws.discovery import Held, settled
from .layer_guess import Unguessable, guess, guesses, required
from .layer_ladder import Candidate, candidates, forward_parameters
from .recipe import native, of_recipe, task_of

_FOUND: Held = {}


def settle(trial: Trial) -> Example:
    """The example of a trial's subject, completed by trying where its author stated none or half of one."""
    return settled(trial, discover, _FOUND)


def discover(subject: Subject) -> Example:
    """The example with arguments and inputs found; where nothing works `more["unfound"]` says what to write."""
    stated = subject.example
    settled = {**stated.more, "settled": True}
    if stated.inputs is not None and (subject.make is not None or not set(required(subject.target)) - set(stated.args)):
        return replace(stated, more=settled)
    problem = "its inputs could not be guessed"
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for guessed in [{}] if subject.make is not None else guesses(subject.target, stated.args):
                module, args, problem = _try_to_build(subject, guessed, problem)
                if module is None:
                    continue
                if stated.inputs is not None:
                    return replace(stated, args=args, more={**settled, "found": _said(subject, args, None)})
                recipe = [_of_recipe(subject.spec)] if subject.kind == "model" and subject.spec is not None else []
                hit = next((c for c in chain(recipe, candidates(module)) if _works(module, c)), None)
                if hit is not None:
                    more = {**settled, "record_axis": hit.record_axis, "found": _said(subject, args, hit)}
                    sizes = tuple(n for n in stated.dynamic if _runs(module, hit, n))
                    return replace(stated, args=args, inputs=hit.make, dynamic=sizes, more=more)
                problem = "its inputs could not be guessed"
        except Unguessable as unknown:
            problem = f"its argument `{unknown}` could not be guessed"
    return replace(stated, more={**settled, "unfound": f"{problem}; write beside it\n{snippet(subject)}"})


class _Given(Exception):
    """What a task gave its model."""


def _of_recipe(spec: Any) -> Candidate:
    """What the task of a recipe gives the model, of so many of the records that the recipe's reader gives first."""
    batches = of_recipe(spec)

    def note(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        raise _Given(args, options)

    def make(size: int, generator: torch.Generator) -> tuple[Any, ...]:
        model, (batch,) = nn.Identity(), batches(size, generator)
        model.register_forward_pre_hook(note, with_kwargs=True)
        try:
            task_of(spec)(model, native(batch))
        except _Given as noted:
            args, options = noted.args
            if not options:
                return tuple(args)
        raise TypeError("the task gives its model options by name, or nothing")

    return Candidate("as the recipe's task gives them", make)


def _try_to_build(subject: Subject, args: dict[str, Any], problem: str) -> tuple[nn.Module | None, dict[str, Any], str]:
    """An instance, the arguments it took, and what stood in the way; arguments that only the error names are guessed too."""
    try:
        module = subject.make() if subject.make is not None else subject.target(**fresh(args))
    except Exception as error:  # noqa: BLE001  # a guess that did not fit
        missing = re.findall(r"'(\w+)'", str(error)) if "required positional argument" in str(error) else []
        if subject.make is None and missing and not set(missing) <= set(args):
            return _try_to_build(subject, {**args, **{n: guess(n, inspect.Parameter.empty) for n in missing}}, problem)
        return None, args, f"building it with {args or 'no arguments'} raised {type(error).__name__}: {str(error)[:200]}"
    if not isinstance(module, nn.Module):
        return None, args, f"it made a {type(module).__name__}, and an nn.Module is wanted"
    return module, args, problem


def _works(module: nn.Module, candidate: Candidate) -> bool:
    """Whether inputs of several sizes run, in evaluation and in training, and give finite numbers."""
    return _runs(module, candidate, 3) and _runs(module, candidate, 2) and _runs(module, candidate, 2, training=True)


def _runs(module: nn.Module, candidate: Candidate, size: int, *, training: bool = False) -> bool:
    from ..laws.compare import leaves

    module = copy.deepcopy(module) if training else module
    before = module.training
    try:
        torch.manual_seed(0)
        module.train(training)
        with torch.no_grad():
            made = module(*candidate.make(size, torch.Generator().manual_seed(size)))
    except Exception:  # noqa: BLE001  # not its signature
        return False
    finally:
        module.train(before)
    tensors = [y for y in leaves(made).values() if isinstance(y, Tensor)]
    return bool(tensors) and all(bool(y.isfinite().all()) for y in tensors if y.is_floating_point())


def _said(subject: Subject, args: Mapping[str, Any], hit: Candidate | None) -> str:
    guessed = {k: v for k, v in args.items() if k not in subject.example.args}
    parts = ([f"arguments {', '.join(f'{k}={v}' for k, v in guessed.items())}"] if guessed else []) + (
        [f"inputs {hit.said}"] if hit is not None else []
    )
    return f"example found: {'; '.join(parts)}"


def snippet(subject: Subject) -> str:
    """The lines its author would write, with its own names filled in."""
    name = subject.label.rpartition(":")[2].rpartition("/")[2]
    missing = required(subject.target) if subject.make is None else {}
    filled = {**dict.fromkeys(missing, "..."), **{k: repr(v) for k, v in subject.example.args.items()}}
    names = _forward_names(subject)
    lines = ["  mapsto.example(", f"      {name},"]
    if filled:
        lines.append("      args={" + ", ".join(f"{k!r}: {v}" for k, v in filled.items()) + "},")
    if subject.example.inputs is None:
        made = ", ".join(["torch.randn(size, 8, generator=generator)"] * max(1, len(names)))
        lines.append(f"      inputs=lambda size, generator: ({made},),  # {', '.join(names) or 'what forward takes'}")
    return "\n".join([*lines, "  )"])


def _forward_names(subject: Subject) -> list[str]:
    if not inspect.isclass(subject.target) and not isinstance(subject.target, nn.Module):
        return []
    forward: Any = subject.target
    parameters = dict(forward_parameters(forward))
    if inspect.isclass(subject.target):
        parameters.pop(next(iter(parameters), ""), None)
    return [n for n, p in parameters.items() if p.default is p.empty]


def build(trial: Trial, dtype: torch.dtype = torch.float32, *, stream: str = "build") -> nn.Module:
    """A fresh instance, the same one each time: built from the trial's seed, in the dtype asked for."""
    settle(trial)
    subject = trial.subject
    if (
        subject.make is None
        and (unfound := subject.example.more.get("unfound"))
        and required(subject.target).keys() - set(subject.example.args)
    ):
        trial.undecided(f"{subject.label}: {unfound}")
    torch.manual_seed(derive(trial.seed, stream))
    module: Any = subject.make() if subject.make is not None else subject.target(**fresh(subject.example.args))
    if not isinstance(module, nn.Module):
        trial.undecided(f"{subject.label} made a {type(module).__name__}, and an nn.Module is wanted")
    if any(nn.parameter.is_lazy(p) for p in module.parameters()):
        with torch.no_grad():
            module.eval()(*inputs(trial, 2))
        module.train()
    return module.to(dtype)


def inputs(trial: Trial, size: int, dtype: torch.dtype = torch.float32, stream: str = "inputs") -> tuple[Any, ...]:
    """Inputs of `size` records from the trial's seed; floating ones in the dtype asked for."""
    make = settle(trial).inputs
    if make is None:
        trial.undecided(f"{trial.subject.label}: {trial.example.more['unfound']}")
    generator = torch.Generator().manual_seed(derive(trial.seed, stream, size))
    made = make(size, generator)
    made = made if isinstance(made, tuple) else (made,)
    return tuple(in_dtype(x, dtype) for x in made)


def in_dtype(tree: Any, dtype: torch.dtype) -> Any:
    """Floating tensors anywhere in nested inputs in the dtype; other values copied."""
    if isinstance(tree, Tensor):
        return tree.to(dtype) if tree.is_floating_point() else tree.clone()
    if isinstance(tree, (tuple, list)) and type(tree) in (tuple, list):
        return type(tree)(in_dtype(x, dtype) for x in tree)
    if isinstance(tree, dict):
        return {k: in_dtype(v, dtype) for k, v in tree.items()}
    return copy.copy(tree)
