"""The peers of `overhead.py`, each in its idiomatic minimal configuration: no checkpoints, no progress bar, the loss logged
every 50 steps. Their batches and their optimizer are those of the hand-written loop: data loaders are measured in `data.py`.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from interleave import Gate
    from overhead import Problem

LOG_EVERY = 50


def fabric(problem: Problem, name: str, gate: Gate) -> None:
    from lightning.fabric import Fabric

    driver = Fabric(accelerator="cpu", devices=1)
    bare, log = problem.net(name, gate), problem.log(name)
    net, adamw = driver.setup(bare, problem.optimizer(bare.parameters()))
    for x, y in problem.batches().forever():
        adamw.zero_grad()
        loss = F.cross_entropy(net(x), y)
        driver.backward(loss)
        adamw.step()
        log(loss.detach())


def lightning(problem: Problem, name: str, gate: Gate) -> None:
    import lightning
    from lightning.pytorch.loggers import CSVLogger

    quiet("lightning", "lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = problem.net(name, gate)

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            loss = F.cross_entropy(self.net(x), y)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return problem.optimizer(self.parameters())

    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        logger=CSVLogger(problem.folder / name),
        log_every_n_steps=LOG_EVERY,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), problem.batches())


def accelerate(problem: Problem, name: str, gate: Gate) -> None:
    from accelerate import Accelerator

    driver = Accelerator(cpu=True)
    bare, log = problem.net(name, gate), problem.log(name)
    net, adamw = driver.prepare(bare, problem.optimizer(bare.parameters()))
    for x, y in problem.batches().forever():
        adamw.zero_grad()
        loss = F.cross_entropy(net(x), y)
        driver.backward(loss)
        adamw.step()
        log(loss.detach())


def hf_trainer(problem: Problem, name: str, gate: Gate) -> None:
    import torch
    from transformers import PrinterCallback, Trainer, TrainingArguments

    quiet("transformers")

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = problem.net(name, gate)

        def forward(self, input: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.net(input)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    class Named:
        """The same batches as dicts."""

        def __init__(self) -> None:
            self.batches = problem.batches()

        def __len__(self) -> int:
            return len(self.batches)

        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            return ({"input": x, "labels": y} for x, y in self.batches)

    class OwnData(Trainer):
        def get_train_dataloader(self) -> Any:
            return Named()

    settings = TrainingArguments(
        output_dir=str(problem.folder / name),
        max_steps=10**9,
        logging_steps=LOG_EVERY,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        max_grad_norm=0.0,
    )
    net = WithLoss()
    adamw = problem.optimizer(net.parameters())
    constant = torch.optim.lr_scheduler.LambdaLR(adamw, lambda _: 1.0)
    trainer = OwnData(model=net, args=settings, train_dataset=[0] * 4096, optimizers=(adamw, constant))
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def ignite(problem: Problem, name: str, gate: Gate) -> None:
    from ignite.engine import Engine, Events

    quiet("ignite")
    net, log = problem.net(name, gate), problem.log(name)
    adamw = problem.optimizer(net.parameters())

    def update(engine: Engine, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        adamw.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        adamw.step()
        return loss.detach()

    trainer = Engine(update)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: log(engine.state.output))
    trainer.run(problem.batches(), max_epochs=10**9)


def quiet(*names: str) -> None:
    """What a library says about its configuration, or when its loop is ended, is no part of the result."""
    warnings.simplefilter("ignore")
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)


PEERS: dict[str, tuple[str, Callable[[Problem, str, Gate], None]]] = {
    "ignite": ("Ignite", ignite),
    "fabric": ("Lightning Fabric", fabric),
    "accelerate": ("Accelerate", accelerate),
    "hf_trainer": ("Hugging Face Trainer", hf_trainer),
    "lightning": ("Lightning", lightning),
}
PACKAGES = {"ignite": "ignite", "fabric": "lightning", "accelerate": "accelerate", "lightning": "lightning"}


def missing(name: str) -> str | None:
    """The package that a peer lacks, if any."""
    needs = ("transformers", "accelerate") if name == "hf_trainer" else (PACKAGES[name],)
    return next((package for package in needs if importlib.util.find_spec(package) is None), None)
