"""The driver of layers and models: how the laws build, call, differentiate and save a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...core.laws import Example, Subject, Trial
from ...core.random import derive
from ...laws.compare import Array
from ..laws.compare import arrays, differs, leaves, tensors
from .export import DRIVER as EXPORTS
from .layer_examples import build, inputs, settle
from .layer_passes import (
    Drawn,
    cotangents,
    differentiable,
    double,
    draws,
    hidden_modules,
    hidden_said,
    observe,
    seen_by,
    with_gradient,
)
from .saved import as_bytes, from_bytes

KNOWN = (
    nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d,
)  # fmt: skip
"""Layers whose training and evaluation differ by what they are; a layer that holds one needs no tag."""


def complete(subject: Subject) -> Subject:
    """The subject with its driver; what is missing of its example is found by `settle`, in the first trial that needs it."""
    return replace(subject, driver=DRIVER)


def used(trial: Trial, size: int = 3, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, tuple[Any, ...]]:
    """An instance that was trained a little, so that neither weights nor statistics are those of a fresh one, and inputs."""
    module, given = build(trial, dtype).train(), inputs(trial, size, dtype)
    torch.manual_seed(derive(trial.seed, "use") % (1 << 63))
    with torch.no_grad():
        for stream in ("first", "second"):
            with trial.component("calling it in training"):
                module(*inputs(trial, size, dtype, stream))
        for parameter in module.parameters():
            if parameter.is_floating_point() or parameter.is_complex():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval(), given


def plain_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors in attributes (and in lists and dicts there) that are neither parameters nor buffers."""
    known = {id(t) for t in (*module.parameters(), *module.buffers())}
    internal = {"_parameters", "_buffers", "_modules"}
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if name in internal:
                continue
            for path, leaf in leaves(value, f"{prefix}.{name}" if prefix else name).items():
                if isinstance(leaf, Tensor) and id(leaf) not in known:
                    yield path, leaf


def unreached(trial: Trial) -> None:
    """Demand that no module which a pass calls, and which has tensors or a mode, lies where PyTorch does not look."""
    given = inputs(trial, 2)
    for index, (path, found) in enumerate(hidden_modules(build(trial))):
        stateful = any(True for _ in (*found.parameters(), *found.buffers()))
        seen = []
        for training in (False, True):
            module, calls = build(trial).eval(), list[int]()
            _, hidden = list(hidden_modules(module))[index]
            hidden.train(training).register_forward_hook(lambda *_, calls=calls: calls.append(1))
            seen.append(observe(module, given, seed=trial.seed, backward=False, in_place=trial.has("in_place"))["output"])
        trial.demand(not calls or not (stateful or differs(*seen)), hidden_said(path, found), first={"attribute": path},
                     cause="a module in a plain list, dict or tuple, or set past nn.Module")  # fmt: skip


def unregistered(trial: Trial) -> None:
    """Tensors in plain attributes of a fresh instance: overwritten one at a time, none may change what comes out."""
    unreached(trial)
    given = inputs(trial, 2)
    options: dict[str, Any] = {"seed": derive(trial.seed, "pass"), "backward": False, "in_place": trial.has("in_place")}
    want = observe(build(trial).eval(), given, **options)["output"]
    for index, (path, _) in enumerate(plain_tensors(build(trial))):
        module = build(trial).eval()
        _, leaf = list(plain_tensors(module))[index]
        with torch.no_grad():
            leaf.fill_(float("nan") if leaf.is_floating_point() else 0)
        try:
            got = observe(module, given, **options)["output"]
        except Exception:  # noqa: BLE001  # it is used, which is what was asked
            got = {}
        trial.demand(
            not differs(got, want),
            f"the tensor in the attribute {path} is used and is neither a parameter nor a buffer: it is not saved, and "
            "does not follow .to()",
            first={"attribute": path}, cause=f"use self.register_buffer({path.rpartition('.')[2]!r}, tensor)",
        )  # fmt: skip


def _drops(module: nn.Module) -> bool:
    """Whether it is one of PyTorch's layers with a rate of dropout (attention, recurrent)."""
    rate = getattr(module, "dropout", 0.0)
    return isinstance(rate, (int, float)) and rate > 0 and type(module).__module__.startswith("torch.nn")


class Driver:
    """Layers as the laws see them (`mapsto.laws.drivers.LayerDriver`)."""

    exports = EXPORTS

    def settle(self, trial: Trial) -> Example:
        return settle(trial)

    def build(self, trial: Trial, dtype: str = "float32", *, training: bool = False, stream: str = "build") -> nn.Module:
        return build(trial, getattr(torch, dtype), stream=stream).train(training)

    def set_mode(self, layer: nn.Module, *, training: bool) -> None:
        layer.train(training)

    def inputs(self, trial: Trial, size: int, *, stream: str = "inputs", dtype: str = "float32") -> tuple[Any, ...]:
        return tuple(arrays(inputs(trial, size, getattr(torch, dtype), stream)))

    def exact(self, trial: Trial, size: int, *, training: bool = False) -> tuple[nn.Module, tuple[Any, ...]]:
        module, given = double(trial, size, training=training)
        return module, tuple(arrays(given))

    def used(self, trial: Trial, size: int, dtype: str = "float32") -> tuple[nn.Module, tuple[Any, ...]]:
        module, given = used(trial, size, getattr(torch, dtype))
        return module, tuple(arrays(given))

    def call(self, layer: nn.Module, given: tuple[Any, ...], seed: int) -> dict[str, Any]:
        torch.manual_seed(seed % (1 << 63))
        with torch.no_grad():
            made: dict[str, Any] = arrays(leaves(layer(*tensors(given))))
        return made

    def see(
        self,
        trial: Trial,
        layer: nn.Module,
        given: tuple[Any, ...],
        *,
        seed: int | None = None,
        backward: bool = True,
        fixed: Sequence[int] = (),
        frozen: Sequence[str] = (),
    ) -> dict[str, Any]:
        options: dict[str, Any] = {"backward": backward} if seed is None else {"backward": backward, "seed": seed}
        options["fixed"] = (*trial.example.more.get("fixed", ()), *fixed)
        with _frozen(layer, frozen):
            made: dict[str, Any] = arrays(seen_by(trial, layer, tensors(given), **options))
        return made

    def bare(self, layer: nn.Module, given: tuple[Any, ...], seed: int) -> tuple[tuple[Any, ...], list[str]]:
        passed = tensors(given)
        found = {k: x for k, x in leaves(passed).items() if isinstance(x, Tensor)}
        versions = {k: x._version for k, x in found.items()}
        outputs = with_gradient(layer(*passed))
        if outputs:
            torch.autograd.backward(list(outputs.values()), cotangents(outputs, seed))
        return tuple(arrays(passed)), [k for k, x in found.items() if x._version != versions[k]]

    def snapshot(self, layer: nn.Module) -> dict[str, dict[str, Any]]:
        return {
            "mode": {n: m.training for n, m in layer.named_modules()},
            "requires_grad": {n: p.requires_grad for n, p in layer.named_parameters()},
            "parameters": self.parameters(layer),
            "buffers": {n: arrays(b.clone()) for n, b in layer.named_buffers()},
        }

    def total(
        self,
        trial: Trial,
        layer: nn.Module,
        given: tuple[Any, ...],
        *,
        seed: int,
        parameters: Mapping[str, Array] | None = None,
        gradients: bool = True,
        order: Literal[1, 2] = 1,
    ) -> tuple[float, dict[str, Array | None]]:
        """Buffers are cloned, so that a pass in training leaves the layer as it was."""
        fixed = tuple(trial.example.more.get("fixed", ()))
        leaf, wrt = differentiable(tensors(given), fixed)
        arguments = tuple(_cloned(x) for x in leaf) if trial.has("in_place") else leaf  # a leaf may not be written into
        weights = {n: p.detach().clone().requires_grad_(p.requires_grad) for n, p in layer.named_parameters()}
        weights |= {n: torch.from_numpy(x).requires_grad_() for n, x in (parameters or {}).items()}
        state = {**{n: b.clone() for n, b in layer.named_buffers()}, **weights}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed % (1 << 63))  # of the CPU alone: the others' note a stack each time
            outputs = with_gradient(torch.func.functional_call(layer, state, arguments))
        wrt |= {f"parameter {n}": p for n, p in weights.items() if p.requires_grad}
        if not outputs or not wrt:
            return 0.0, {}
        value = _summed(outputs, seed)
        if order == 2:
            value = value + _summed({path: y * y.conj() / 2 for path, y in outputs.items()})
            slopes = _by(value, wrt, create_graph=True)
            value = _summed({f"gradient of {path}": g for path, g in slopes.items() if g is not None}, seed)
        if not gradients:
            return float(value.detach()), {}
        try:
            found = _by(value, wrt) if value.requires_grad else dict.fromkeys(wrt)
        except RuntimeError as error:
            if "use_reentrant=True" not in str(error):
                raise
            trial.undecided(
                "it checkpoints within by use_reentrant=True, of which PyTorch gives gradients to backward() alone, and not by "
                "name: say use_reentrant=False, as it advises, or state tags={'reentrant'}"
            )
        return float(value.detach()), {path: arrays(g) for path, g in found.items()}

    def draws(self, layer: nn.Module, given: tuple[Any, ...]) -> bool:
        return draws(layer, tensors(given))

    def noise_of_weights(self, layer: nn.Module, given: tuple[Any, ...]) -> bool:
        """Whether what it draws has the shape of one of its weights, or the two sides of one (Fortunato et al. 2018)."""
        with Drawn() as drawn, torch.no_grad():
            layer(*tensors(given))
        weights = [tuple(p.shape) for p in layer.parameters() if p.dim() > 1]
        return any(shape in drawn.shapes or all((n,) in drawn.shapes for n in shape) for shape in weights)

    def parameters(self, layer: nn.Module) -> dict[str, Array]:
        return {n: arrays(p.clone()) for n, p in layer.named_parameters()}

    def state(self, layer: nn.Module) -> dict[str, Array]:
        return self.parameters(layer) | {n: arrays(b.clone()) for n, b in layer.named_buffers()}

    def save(self, layer: nn.Module) -> bytes:
        return as_bytes(layer.state_dict())

    def load(self, layer: nn.Module, saved: bytes) -> None:
        layer.load_state_dict(from_bytes(saved), strict=True)

    def has_state(self, layer: nn.Module) -> bool:
        return bool(layer.state_dict())

    def unsaved(self, layer: nn.Module) -> list[str]:
        return sorted(n for n, _ in layer.named_buffers() if n not in layer.state_dict())

    def check_attributes(self, trial: Trial) -> None:
        unregistered(trial)

    def differs_by_mode(self, layer: nn.Module) -> bool:
        return any(isinstance(m, KNOWN) or _drops(m) for m in layer.modules())

    @contextmanager
    def deterministic(self) -> Iterator[None]:
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


DRIVER = Driver()


def _cloned(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.clone()
    if type(tree) in (tuple, list):
        return type(tree)(_cloned(x) for x in tree)
    return {k: _cloned(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


@contextmanager
def _frozen(layer: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Within it these parameters require no gradients."""
    trained = [p for n in names if (p := layer.get_parameter(n)).requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()


def _summed(outputs: Mapping[str, Tensor], seed: int | None = None) -> Tensor:
    """The real part of the sum of tensors, each times normal numbers where a seed is given."""
    parts = [y if seed is None else _weighed(path, y, seed) for path, y in outputs.items()]
    return sum((y.real.sum() if y.is_complex() else y.double().sum() for y in parts), torch.zeros((), dtype=torch.float64))


def _by(value: Tensor, wrt: Mapping[str, Tensor], *, create_graph: bool = False) -> dict[str, Tensor | None]:
    """The gradients of a number by path; None where it does not depend on one."""
    found = torch.autograd.grad(value, list(wrt.values()), create_graph=create_graph, allow_unused=True)
    return dict(zip(wrt, found, strict=True))


def _weighed(path: str, y: Tensor, seed: int) -> Tensor:
    """A tensor times normal numbers (conjugates of complex ones) drawn from the seed."""
    generator = torch.Generator().manual_seed(derive(seed, "weights", path))
    drawn = torch.randn(y.shape, dtype=torch.complex128 if y.is_complex() else torch.float64, generator=generator)
    return y * drawn.conj() if y.is_complex() else y.double() * drawn
