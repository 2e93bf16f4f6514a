"""The peers of `ranks.py` under DDP on gloo, each in its idiomatic minimal configuration: no checkpoints, no progress bar.

They train on the mean of the ranks' means, as their documentation has it, so their weights end elsewhere than those of loops
that divide by the summed number of tokens. Their batches and their optimizer are those of the hand-written loop. Their
classes for FSDP2 want a GPU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch.nn.functional as F
from interleave import Gate
from overhead_peers import quiet
from ranks_loops import IGNORED, Problem
from torch import Tensor


def fabric(problem: Problem, name: str, gate: Gate) -> None:
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    quiet("lightning.fabric")
    driver = Fabric(accelerator="cpu", devices=problem.world, strategy=DDPStrategy(**SETTINGS))
    driver.launch()
    bare = problem.nets[name] = problem.net()
    net, adamw = driver.setup(bare, problem.optimizer(bare.parameters()))
    losses: list[Tensor] = []
    for x, y in problem.forever():
        gate.step()
        adamw.zero_grad()
        loss = F.cross_entropy(net(x).flatten(0, 1), y.flatten(), ignore_index=IGNORED)
        driver.backward(loss)
        adamw.step()
        losses.append(loss.detach())


def lightning(problem: Problem, name: str, gate: Gate) -> None:
    import lightning
    from lightning.pytorch.loggers import CSVLogger
    from lightning.pytorch.strategies import DDPStrategy

    quiet("lightning", "lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = problem.nets[name] = problem.net()

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            loss = F.cross_entropy(self.net(x).flatten(0, 1), y.flatten(), ignore_index=IGNORED)
            self.log("loss", loss)
            return loss

        def on_train_batch_start(self, batch: Any, index: int) -> None:
            gate.step()

        def configure_optimizers(self) -> Any:
            return problem.optimizer(self.parameters())

    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=problem.world,
        strategy=DDPStrategy(**SETTINGS),
        max_epochs=-1,
        logger=CSVLogger(problem.folder / name),
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), Epoch(problem))


class Epoch:
    """A rank's batches once: a list would be taken for several readers."""

    def __init__(self, problem: Problem) -> None:
        self.own = problem.own

    def __len__(self) -> int:
        return len(self.own)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.own)


def accelerate(problem: Problem, name: str, gate: Gate) -> None:
    from accelerate import Accelerator, DistributedDataParallelKwargs

    driver = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(**SETTINGS)])
    bare = problem.nets[name] = problem.net()
    net, adamw = driver.prepare(bare, problem.optimizer(bare.parameters()))
    losses: list[Tensor] = []
    for x, y in problem.forever():
        gate.step()
        adamw.zero_grad()
        loss = F.cross_entropy(net(x).flatten(0, 1), y.flatten(), ignore_index=IGNORED)
        driver.backward(loss)
        adamw.step()
        losses.append(loss.detach())


SETTINGS: Any = {"gradient_as_bucket_view": True}
"""What the hand-written loop and mapsto give to DDP."""
PACKAGES = {"fabric": "lightning", "accelerate": "accelerate", "lightning": "lightning"}


def peers() -> dict[str, tuple[str, Callable[..., Any]]]:
    """Name -> (what it is, loop)."""
    return {
        "fabric": ("Lightning Fabric, DDP", fabric),
        "accelerate": ("Accelerate, DDP", accelerate),
        "lightning": ("Lightning, DDP", lightning),
    }


def missing(name: str) -> str | None:
    """The package that a peer lacks, if any."""
    package = PACKAGES.get(name)
    return package if package and importlib.util.find_spec(package) is None else None
