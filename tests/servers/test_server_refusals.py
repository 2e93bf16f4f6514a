"""What a parameter server cannot train is refused by name, with the reason, before any process is started."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import server_toys as toys
import torch
from torch import nn

from mapsto import Spec, use
from mapsto.core.compose import Declared
from mapsto.core.errors import MissingExtra, SpecError
from mapsto.torch.servers import blueprint, mesh
from mapsto.torch.wing import build

pytest.importorskip("ray")


class BatchStatistics(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 3), nn.BatchNorm1d(3))
        self.double()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4, sparse=True), nn.Linear(4, 9, bias=False)
        self.head.weight = self.table.weight


class Limited(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Embedding(9, 4, sparse=True, max_norm=1.0))


class Locked(nn.Linear):
    """A live object that cannot leave its process."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.lock = threading.Lock()


class Wraps:
    """A middleware of whatever it is told to wrap."""

    def __init__(self, *, state: bool = False) -> None:
        if state:
            self.state_dict = dict

    def loss(self, inner: Any) -> Any:
        return inner

    update = grad = step = loss


def wrapping(*names: str, after: tuple[str, ...] = (), **more: Any) -> type:
    return type("wraps_" + "_".join(names), (Wraps,), {"__mapsto__": Declared(wraps=names, after=after), **more})


SPLIT = r"Adafactor is not known to act on each element .* '2.weight' would be split .* mesh.split=false"


WIDE = {"model": use(toys.WideNet), "task": use(toys.wide)}
ADAGRAD = use("adagrad", lr=0.1)
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "sam": ({"middleware": ["sam"]}, "middleware.sam: .* it climbs along the gradient of the whole batch"),
    "noise": ({"middleware": [use("gradient_noise", eta=0.1)]}, "middleware.gradient_noise: .* drawn for whole parameters"),
    "timing": ({"middleware": ["timing"]}, "middleware.timing: .* time/pull, time/compute"),
    "fp16": ({"middleware": [use("mixed_precision", dtype="fp16")]}, "mixed_precision: .* use bf16"),
    "raise": ({"middleware": ["nonfinite"]}, "middleware.nonfinite: .* say action=skip"),
    "step": ({"middleware": [use(wrapping("step"))]}, "wraps `step`, which is spread over several processes"),
    "update": ({"middleware": [use(wrapping("update"))]}, "a server updates some rows only; say `elementwise = True`"),
    "grad": ({"middleware": [use(wrapping("grad"))]}, "which no worker has; say after='mesh' if each micro-shard's is meant"),
    "both": ({"middleware": [use(wrapping("loss", "update", elementwise=True))]}, "of workers and of servers"),
    "state": ({"middleware": [use(wrapping("loss"), state=True)]}, "it keeps a state"),
    "lbfgs": ({"optimizer": "lbfgs"}, "optimizer: LBFGS evaluates the objective itself"),
    "split": ({"optimizer": "adafactor"}, SPLIT),
    "statistics": ({"model": use(BatchStatistics)}, r"'1' \(BatchNorm1d\): statistics over a batch"),
    "tied": ({"model": use(Tied), "optimizer": ADAGRAD}, "'table.weight' is sparse and used by another module too"),
    "norm": ({"model": use(Limited), "optimizer": ADAGRAD}, "max_norm of '0.weight' looks at more than"),
    "adamw": ({**WIDE, "optimizer": "adamw"}, "AdamW takes no sparse gradients, and 'bag.weight' .* allowed: SGD, Adagrad"),
    "fused": ({**WIDE}, "the fused kernel of SGD takes no sparse gradients: say fused=false"),
    "sparse": ({**WIDE, "optimizer": use(torch.optim.SparseAdam)}, "SparseAdam takes sparse gradients only, and 'head.weight'"),
    "compile": ({**WIDE, "optimizer": ADAGRAD, "middleware": [use("compile", backend="eager")]}, "rows of 'bag.weight' are"),
    "inner": (
        {**WIDE, "optimizer": ADAGRAD, "middleware": [use(wrapping("grad", after=("mesh",)))]},
        "it wraps `grad`, and a worker has no gradient of all rows of 'bag.weight'",
    ),
    "strict": ({"strict": True}, "strict: servers sum in another order"),
    "shards": ({"micro_shards": 2}, "micro_shards: 2 are fewer than 3 workers"),
    "device": ({"device": "cuda"}, "say mesh.gpus=1, or device=cpu"),
    "live": ({"model": Locked()}, "model: this part cannot be sent to servers and workers .*use"),
    "many": ({"mesh": {"servers": 9, "workers": 3, "split": False}}, "of 6 parameters nothing is left for server 6 of 9"),
    "none": ({"mesh": {"servers": 0}}, "mesh.servers: 0 is out of range: int of at least 1"),
    "stale": ({"mesh": {"servers": 1, "staleness": -1}}, "mesh.staleness: -1 is out of range: int of at least 0"),
    "typo": ({"mesh": {"servers": 1, "worker": 3}}, "mesh.worker: .* did you mean 'workers'"),
    "time": ({"mesh": {"servers": 1, "timeout": 0.0}}, "mesh.timeout: 0.0 is out of range"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("a process was started"))
    changes, said = CASES[name]
    spec = toys.spec(**changes)
    with pytest.raises(SpecError, match=said):
        build(spec, {"total_steps": 4, "steps_per_epoch": 5, "seed": 0})


def test_under_a_launcher_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "launched", lambda: True)
    with pytest.raises(SpecError, match="started by one process; start it without torchrun or --ranks"):
        build(toys.spec(), {})


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"a mesh of servers needs 'ray'.*mapsto\[ray\]"):
        build(toys.spec(), {})


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from mapsto.core.errors import ClusterError
    from mapsto.servers.cluster import Cluster

    def init(*_: Any, **__: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ClusterError, match="no Ray cluster answers at '10.0.0.1:6379': ConnectionError: Could not find"):
        Cluster("10.0.0.1:6379", 3, cpus=1, gpus=0, actors=(object, object))


def test_what_is_shipped_is_the_trajectory_and_nothing_else() -> None:
    live = lambda event: None  # noqa: E731  # an observer that could be sent nowhere
    spec: Spec = toys.spec(observers=[live], data={**toys.spec().data, "valid": threading.Lock()})
    shipped = blueprint.Blueprint.of(spec, 4, {}).ship()
    again = shipped.open()
    assert again.model == spec.model
    assert not hasattr(again, "observers")


def test_build_program_sends_to_where_it_can_be_made() -> None:
    from mapsto.torch import build_program

    with pytest.raises(SpecError, match=r"makes a program of its own: use Run\(spec\)"):
        build_program(use(toys.dense_net), mesh=use("servers", servers=2))
