"""What the engine asks of a wing: the framework behind one protocol, found by the name in the spec."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from ..core.errors import SpecError, UnknownName
from ..core.registry import registry
from ..core.spec import Spec
from ..core.wings import DEFAULT
from .ranks import Ranks

Batch = Mapping[str, Any]
Metrics = Mapping[str, Any]


class Program(Protocol):
    """The built program of a run: the four mappings over one state."""

    seed: int

    @property
    def reader_args(self) -> Mapping[str, Any]:
        """Arguments for a reader's `stream`: none, or `shard` and `shards`, this rank's micro-shards of each global batch."""
        ...

    @property
    def attention_requested(self) -> bool:
        """Whether some rank requested attention: the same on every rank after the same step."""
        ...

    def request_attention(self, wanted: bool = True) -> None:
        """Request attention of all ranks, such as to stop (or no more); the request goes along with the next step."""
        ...

    @property
    def position(self) -> int:
        """Steps taken, which is the position of the next global batch."""
        ...

    def step(self, batch: Batch) -> Metrics:
        """One step in place; the metrics stay on the device."""
        ...

    def fetch(self, window: Sequence[Metrics]) -> dict[str, float]:
        """The metrics of several steps as floats: pairs (sum, weight) averaged exactly, scalars averaged over steps.

        Those of a window that a checkpoint cut in two may come from its file, and so lie on the CPU.
        """
        ...

    def rates(self) -> dict[str, float]:
        """The learning rate of each parameter group, named `lr` or `lr/<group>`."""
        ...

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The loss and the task's metrics over the batches, each record once, with the weights for evaluation."""
        ...

    def predict(self, batches: Iterable[Batch]) -> Iterator[dict[str, Any]]:
        """The task's predictions, a dict of arrays (first axis: records) a batch."""
        ...

    def panels(self, batches: Iterable[Batch]) -> list[dict[str, Any]]:
        """What the task shows in a report, as plain data (`confusion`, `samples`, ...); empty where it has nothing."""
        ...

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Hand evaluation metrics to a schedule that waits for them (reduce on plateau)."""
        ...

    @property
    def awaits(self) -> Sequence[str]:
        """The evaluation metrics without which it could not go on as meant, such as the one a plateau waits for."""
        ...

    def weights(self) -> dict[str, Any]:
        """Copies of the canonical weights as NumPy arrays (or CPU tensors where NumPy has no such dtype)."""
        ...

    def state_tree(self) -> dict[str, Any]:
        """The whole state as a tree of dicts, lists and tuples of tensors and plain values (no copy is made)."""
        ...

    def restore(self, tree: Mapping[str, Any], *, reschedule: bool = False) -> None:
        """Put such a tree back. Raises CheckpointError naming every key that is missing, unexpected or does not fit.

        reschedule: the schedule is not put back, but taken to the tree's step as this program has it (a wing whose parts
        take no `total_steps` is never asked for it).
        """
        ...

    def summary(self) -> dict[str, Any]:
        """For people and the environment file: parameters, trainable ones, device, precision, the middleware plan."""
        ...


class Wing(Protocol):
    """A framework's room: modules implement it as functions."""

    def refuse(self, spec: Spec) -> None:
        """Raise SpecError for what a checked spec says that no model and no machine could be built with (a wing may do
        without)."""
        ...

    def build(self, spec: Spec, injected: Mapping[str, Any], initial: Any = None) -> Program:
        """The program of a spec; `injected` are total_steps, steps_per_epoch and seed. initial: given where the model is to
        take weights (`mapsto.engine.initial.Initial`), before anything copies its own."""
        ...

    def read_weights(self, path: Path) -> Mapping[str, Any]:
        """The named tensors of a file of the framework, read without running code."""
        ...

    def ranks(self, spec: Spec) -> Ranks | None:
        """The ranks that a launcher started, joined; None for one process."""
        ...

    def accelerators(self, device: str) -> int:
        """How many devices of the kind that a spec's device means this machine has; 0 on the CPU."""
        ...

    def rates(self, spec: Spec, injected: Mapping[str, Any], steps: int) -> Sequence[float]:
        """The rate of the first parameter group at each of so many steps; empty where it cannot be told before a run."""
        ...

    def dry_run(self, spec: Spec, example: Batch, injected: Mapping[str, Any]) -> Any:
        """What steps the spec's program on meshes that are not there, for plans (`mapsto.planning.dry_run.DryRun`; a wing may
        do without). example: a batch, of which shapes and types are taken."""
        ...

    def is_tensor(self, value: Any) -> bool:
        """Whether a leaf of the state tree goes into the tensor file."""
        ...

    def unsaved(self, tensor: Any, parts: bool) -> str | None:
        """What a tensor is that no file can hold, or None; parts: the ranks write parts, each into a file of its own."""
        ...

    def save_tensors(self, tensors: Mapping[str, Any], path: Path) -> None:
        """Write named tensors (any dtype, layout or device; names need not be distinct storages) to a safetensors file."""
        ...

    def load_tensors(self, path: Path) -> dict[str, Any]:
        """Read them back, on the CPU, bitwise."""
        ...

    def host(self, tensors: Mapping[str, Any], held: Mapping[str, Any]) -> dict[str, Any]:
        """Copies on the host of what this rank holds of named tensors; those of `held` are written over where they fit."""
        ...

    def checksums(self, program: Any, tree: Mapping[str, Any]) -> dict[str, dict[str, int]]:
        """A checksum of every tensor of a program's state tree by path, under the part that this rank holds of them.

        Ranks that hold the same part must have the same.
        """
        ...

    def is_shard(self, tensor: Any) -> bool:
        """Whether a tensor is of those of which ranks hold parts; never for one process."""
        ...

    def save_shards(self, tensors: Mapping[str, Any], folder: Path, ranks: Ranks) -> list[str]:
        """Write what this rank holds of named tensors; the names of its files. All ranks call it together."""
        ...

    def local_state(self, tree: Mapping[str, Any], program: Any) -> Mapping[str, Any]:
        """Of the state of a whole program (its leaves may be anything) what a program on this rank has parameters for."""
        ...

    def load_shards(self, folder: Path, names: Sequence[str], program: Any, ranks: Ranks) -> dict[str, Any]:
        """Read named tensors from all the tensor files of a folder: of each the part that a program on this rank holds
        of it, or all. All ranks call it together."""
        ...

    def probe(self, program: Any, batch: Any, *, nudge: bool = False) -> dict[tuple[str, str], Any]:
        """What the next step gives, in the order in which it is computed: (what, which) -> NumPy array; the step is taken.

        nudge: weights are moved to their next numbers first (see `mapsto.engine.divergence`; a wing may do without).
        """
        ...

    def versions(self) -> dict[str, str]:
        """Versions and settings that decide numbers: framework, backend, threads, device names."""
        ...

    def deterministic(self) -> AbstractContextManager[None]:
        """Within it, a global random stream of the framework that is drawn from is put back at the end."""
        ...


def find_wing(name: str) -> Wing:
    """The wing of that name. Raises SpecError with those there are, MissingExtra where its framework is not installed."""
    try:
        framework = registry.wing(name)
    except UnknownName as error:
        raise SpecError(f"wing: {error}") from None
    if not framework.program:
        raise SpecError(f"wing: {name} names no program of its own (`Framework.program`), so it trains nothing")
    module: Any = importlib.import_module(framework.program)
    return module  # type: ignore[no-any-return]


def build_program(model: Any, *args: Any, wing: str = DEFAULT, **options: Any) -> Any:
    """Build a program for one's own loop: of a whole spec in the spec's wing, or of parts in the wing that is named.

    model: a `Spec`, of which data, observers and checkpoints are left aside (options: `total_steps`, `steps_per_epoch`), or a
    model, with whatever the wing's own `build_program` takes beside it (`mapsto.torch.build_program`: task, optimizer,
    schedule, middleware, seed, device, mesh, ...). Raises SpecError and ComposeError naming the path.
    """
    if isinstance(model, Spec):
        if args:
            raise SpecError("build_program: a spec says all parts itself; change it with spec.override(...)")
        model.load_imports()
        return find_wing(model.wing).build(model, {"seed": model.seed, **options})
    found: Any = find_wing(wing)
    if not hasattr(found, "build_program"):
        raise SpecError(f"build_program: the wing {wing} builds programs of whole specs only; give it a Spec")
    return found.build_program(model, *args, **options)
