"""The torch wing as the engine sees it (`mapsto.engine.wing.Wing`)."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from ..core.errors import SpecError, require
from ..core.parts import build as build_part
from ..core.spec import Spec

torch = require("torch", "torch", "the torch wing")
require("safetensors.torch", "torch", "the torch wing")

from .build import build_program  # noqa: E402, F401  # of the protocol
from .build import build_spec as build  # noqa: E402, F401  # of the protocol
from .mesh import agreement  # noqa: E402
from .mesh.group import Group, join, launched  # noqa: E402
from .mesh.one import is_shard  # noqa: E402, F401  # of the protocol
from .placement import known_device  # noqa: E402
from .probe import probe  # noqa: E402, F401  # of the protocol
from .rates import rates, try_rates  # noqa: E402, F401  # of the protocol
from .saving import host  # noqa: E402, F401  # of the protocol
from .tensor_file import load_tensors, save_tensors, unsaved  # noqa: E402, F401  # of the protocol


def refuse(spec: Spec) -> None:
    """Raise SpecError for what a checked spec says that no model and no machine could be built with."""
    known_device(spec.device)
    build_part(spec.mesh, "mesh", path="mesh", injected={"seed": spec.seed})
    try_rates(spec)


def read_weights(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, or of one that torch saved: of a mapping in it, such as `state_dict`, if need be.

    Raises CheckpointError where it holds none, or would run code.
    """
    from .saving import weights_in

    return load_tensors(path) if path.suffix == ".safetensors" else weights_in(path)


def ranks(spec: Spec) -> Any:
    """The ranks that a launcher started, joined; None where none did."""
    if not launched():
        return None
    args = getattr(spec.mesh, "args", {})
    join(args.get("timeout"))
    return Group()


def accelerators(device: str) -> int:
    """How many devices of the kind that a spec's device means this machine has; 0 on the CPU."""
    cuda = device.partition(":")[0] in ("auto", "cuda") and torch.cuda.is_available()
    return int(torch.cuda.device_count()) if cuda else 0


def dry_run(spec: Spec, example: Mapping[str, Any], injected: Mapping[str, Any]) -> Any:
    """What steps the spec's program on meshes that are not there (`mapsto.planning.dry_run.DryRun`)."""
    if spec.turns is not None:
        raise SpecError(
            "turns: a plan follows one backward pass a step, and turns have several: plan the spec of one turn alone"
        )
    from .planning.meshes import Meshes  # no run pays for what only plans need

    return Meshes(spec, example, injected)


def is_tensor(value: Any) -> bool:
    """Whether a leaf of the state tree goes into the tensor file."""
    return isinstance(value, torch.Tensor)


def prepare() -> None:
    """Import what ranks need, before processes are forked that would each import it."""
    import torch._dynamo
    import torch.distributed.fsdp  # noqa: F401

    from . import sharded_files  # noqa: F401


def save_shards(tensors: Mapping[str, Any], folder: Path, ranks: Any) -> list[str]:
    """Write what this rank holds of named tensors; the names of its files."""
    from . import sharded_files  # what it imports is heavy, and a run of one process does without

    return sharded_files.save_shards(tensors, folder, ranks)


def local_state(tree: Mapping[str, Any], program: Any) -> Mapping[str, Any]:
    """Of the state of a whole program what a program on this rank has parameters for."""
    found: Mapping[str, Any] = program.state.mesh.local_state(tree)
    return found


def checksums(program: Any, tree: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """A checksum of every tensor of a program's state, under the part of it that this rank holds.

    Replicas that take steps of their own (`local_sgd`) have the weights in common only.
    """
    local_updates = getattr(program.state.mesh, "local_updates", False)
    return agreement.checksums({"model": tree["model"]} if local_updates else tree)


def load_shards(folder: Path, names: Sequence[str], program: Any, ranks: Any) -> dict[str, Any]:
    """Read named tensors: of each the part that a program on this rank holds of it, or all."""
    from . import sharded_files

    return sharded_files.load_shards(folder, names, program, ranks)


def versions() -> dict[str, str]:
    """What decides numbers, for environment.json: versions, number of threads, the CPU's kernels, devices."""
    found = {
        "torch": torch.__version__,
        "safetensors": metadata.version("safetensors"),
        "threads": str(torch.get_num_threads()),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }
    if torch.cuda.is_available():
        found |= {"cuda": str(torch.version.cuda), "device": torch.cuda.get_device_name()}
    return found


@contextmanager
def deterministic() -> Iterator[None]:
    """The default generators of the CPU and of used CUDA devices are put back as they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=list(devices)):
        yield
