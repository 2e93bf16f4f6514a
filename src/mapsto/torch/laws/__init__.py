"""The laws of what is native to PyTorch, a file a kind, and what the checker asks of a wing (`mapsto.core.law_wings`)."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping
from typing import Any

from ...core.errors import require
from ...core.laws import Subject
from ...core.listening import INTERFACE, interfaces
from ...core.values import use

torch = require("torch", "torch", "mapsto.torch.laws")

from ..drivers.watched import failing, graphs, modes, modes_kept  # noqa: E402, F401  # of what the laws ask

COMPLETE = {
    "layer": "..drivers.layer",
    "model": "..drivers.layer",
    "loss": "..drivers.loss",
    "optimizer": "..drivers.optimizer",
    "schedule": "..drivers.schedule",
    "middleware": "..drivers.middleware",
    "program": "..drivers.program",
    "surgery": "..drivers.surgery",
    "task": "..drivers.task",
    "export": "..drivers.export",
    "op": "..drivers.op",
}
"""Kind -> the module whose `complete(subject)` finds an example."""


PRELOAD = ("mapsto.torch.mesh.ranks", "mapsto.torch.sharded_files", "torch._dynamo")
"""Every optimizer and every mesh of ranks asks for these, when it is made."""
LATER = (
    "torch._inductor.codecache", "torch._functorch.aot_autograd", "torch._dynamo.backends.debugging",
    "torch._inductor.debug", "torch._inductor.decomposition", "torch._inductor.lowering", "torch._inductor.pattern_matcher",
    "torch.export._trace", "torch.export.pt2_archive._package", "torch._dynamo.testing", "torch._dynamo.repro.after_dynamo",
    "torch._dynamo.dce_extra_outputs", "torch._inductor.compiler_bisector", "torch._higher_order_ops.passes",
    "torch._subclasses.schema_check_mode", "torch.fx.experimental.validator", "torch.utils.serialization",
)  # fmt: skip
"""What a first compilation, even by `aot_eager`, and a first export import: 0.9 s, and as much again in collecting garbage."""


def preload() -> None:
    """Import what most laws ask for late, and each worker would import anew."""
    for name in PRELOAD:
        importlib.import_module(name)


WORDS = {
    "layer.gradients": "check a hand-written backward with torch.autograd.gradcheck",
    "layer.double_gradients": "write an autograd.Function whose backward is made of differentiable operations",
    "layer.state": "hold tensors as parameters or buffers (register_buffer), everything else in get_extra_state",
    "loss.extreme": "F.log_softmax, F.logsigmoid, torch.logsumexp and F.softplus",
    "optimizer.resume": "keep it in self.state[parameter] or in the groups, never in attributes",
    "optimizer.resume_low_precision": "Optimizer.load_state_dict casts state to the parameter's dtype: in a load_state_dict of "
    "your own restore the dtypes after it (mapsto.torch.saving.restore_optimizer does); an override of the cast is not called",
    "optimizer.missing_gradients": "skip a parameter whose .grad is None",
    "schedule.resume": "everything in state_dict(), and nothing in the lambdas of a LambdaLR",
    "middleware.resume": "state_dict() and load_state_dict(tree)",
    "export.fresh_inputs": "no .item(), float() or `if` on a tensor's value: torch.where, or torch.cond",
    "export.without_source": "torch.export.save or ONNX",
}
"""Law -> how to satisfy it, in the words of PyTorch."""


def words() -> Mapping[str, str]:
    """How to satisfy laws of all wings, in PyTorch's words."""
    return WORDS


def preload_later() -> tuple[str, ...]:
    """What compilers and exports ask for."""
    return LATER


def infer_kind(target: Any) -> str | None:
    """layer, optimizer, schedule or loss, by class or signature; None where it is none of them."""
    if isinstance(target, torch.nn.modules.loss._Loss) or (
        inspect.isclass(target) and issubclass(target, torch.nn.modules.loss._Loss)
    ):
        return "loss"
    bases = (
        (torch.nn.Module, "layer"),
        (torch.optim.Optimizer, "optimizer"),
        (torch.optim.lr_scheduler.LRScheduler, "schedule"),
    )
    for base, kind in bases:
        if isinstance(target, base) or (inspect.isclass(target) and issubclass(target, base)):
            return kind
    if isinstance(target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)) or type(target).__name__ == "CustomOpDef":
        return "op"
    if inspect.isfunction(target):
        names = list(inspect.signature(target).parameters)
        if names[:2] in (["prediction", "target"], ["input", "target"], ["logits", "target"], ["outputs", "targets"]):
            return "loss"
    return None


def complete(subject: Subject) -> Subject:
    """The subject with an example found from its signature, where its author stated none."""
    if subject.kind not in COMPLETE:
        return subject
    module: Any = importlib.import_module(COMPLETE[subject.kind], __name__)
    completed: Subject = module.complete(subject)
    return completed


def globals() -> dict[str, Any]:  # the protocol's word
    """The framework's settings that no component may change."""
    return {
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "gradient mode": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "number of threads": torch.get_num_threads(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
    }


def put_back(settings: Mapping[str, Any]) -> None:
    """Set torch's global settings as `globals` gave them."""
    torch.set_default_dtype(getattr(torch, settings["default dtype"].removeprefix("torch.")))
    torch.set_default_device(settings["default device"])
    torch.set_grad_enabled(settings["gradient mode"])
    torch.use_deterministic_algorithms(settings["deterministic algorithms"])
    torch.set_num_threads(settings["number of threads"])
    torch.autograd.set_detect_anomaly(settings["anomaly detection"])
    torch.set_float32_matmul_precision(settings["matmul precision"])


def use_one_thread() -> None:
    """Compute in one thread, as workers do, so that sums have one order everywhere."""
    torch.set_num_threads(1)


def seed(number: int) -> None:
    """Start the framework's global random stream anew."""
    torch.manual_seed(number % (1 << 63))


def streams() -> dict[str, Any]:
    """The state of the default generator of the CPU."""
    return {"PyTorch's": torch.get_rng_state()}


def put_streams(states: Mapping[str, Any]) -> None:
    """Put torch's global generators back to states that `streams` gave."""
    torch.set_rng_state(states["PyTorch's"])


def run_parts() -> dict[str, Any]:
    """A model with dropout and running statistics, averages of its weights, AdamW and a schedule."""
    return {
        "model": use("mapsto.torch.drivers.middleware_examples:noisy_model"),
        "optimizer": use("adamw", lr=0.02),
        "schedule": use("step", step_size=2, gamma=0.5),
        "middleware": [use("ema", decay=0.8), use("accumulate", steps=2)],
    }


def join(rank: int, world: int, store: str) -> None:
    """Join a gloo group of this machine that meets at the file `store`."""
    import torch.distributed as dist

    use_one_thread()
    os.environ.update(interfaces(INTERFACE))
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
