"""The torch wing as the engine sees it (`mapsto.engine.wing.Wing`)."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from ..core.errors import require
from ..core.spec import Spec

torch = require("torch", "torch", "the torch wing")
safetensors = require("safetensors.torch", "torch", "the torch wing")

from .build import build_program  # noqa: E402
from .mesh.group import Group, join, launched  # noqa: E402
from .program import Program  # noqa: E402


def build(spec: Spec, offers: Mapping[str, Any]) -> Program:
    """The program of a spec."""
    return build_program(
        spec.model,
        spec.task,
        spec.optimizer,
        spec.schedule,
        spec.middleware,
        seed=spec.seed,
        device=spec.device,
        mesh=spec.mesh,
        micro_shards=spec.micro_shards,
        strict=spec.strict,
        offers=offers,
    )


def ranks(spec: Spec) -> Any:
    """The ranks that a launcher started, joined; None where none did."""
    if not launched():
        return None
    args = getattr(spec.mesh, "args", {})
    join(args.get("timeout"))
    return Group()


def is_tensor(value: Any) -> bool:
    """Whether a leaf of the state tree goes into the tensor file."""
    return isinstance(value, torch.Tensor)


def save_tensors(tensors: Mapping[str, Any], path: Path) -> None:
    """Write named tensors to a safetensors file, each with storage of its own."""
    safetensors.save_file(
        {n: t.detach().to("cpu").clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}, path
    )


def load_tensors(path: Path) -> dict[str, Any]:
    """Read them back on the CPU."""
    found: dict[str, Any] = safetensors.load_file(path, device="cpu")
    return found


def versions() -> dict[str, str]:
    """What decides numbers: versions, threads, devices."""
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
