"""Loops of four kinds over the same data, each of which can be stopped at a step, saved in a folder and gone on with there.

`loop(folder, data, stop)` trains a small model for EPOCHS epochs, from the state in the folder where one is, up to step `stop`;
it returns the ids of the records it was given, a list a step, and the weights. As a script of torchrun, each rank writes its
own:

    torchrun --nproc-per-node 2 loops.py PACKAGE FOLDER STOP OUTPUT
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mapsto.data import Batches
from mapsto.torch import Loader

EPOCHS, RECORDS = 3, 14
WORLD = int(os.environ.get("WORLD_SIZE", 1))
Outcome = tuple[list[list[int]], torch.Tensor]


def fields() -> dict[str, Any]:
    x = np.random.default_rng(0).standard_normal((RECORDS, 3)).astype(np.float32)
    return {"id": np.arange(RECORDS), "input": x, "target": x.sum(1)}


def a_loader() -> Loader:
    """Epochs of 4 batches, the last of which is smaller."""
    return Loader(Batches(fields(), 4, shuffle=True, seed=3))


def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    return model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def loss_of(model: Any, batch: dict[str, Any]) -> Any:
    return (model(batch["input"])[:, 0] - batch["target"]).square().mean()


def weights(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def by_hand(folder: Path, data: Any, stop: int | None = None) -> Outcome:
    model, optimizer = fresh()
    trained: nn.Module = model
    if WORLD > 1:
        torch.distributed.init_process_group("gloo")
        trained = nn.parallel.DistributedDataParallel(model)
    folder.mkdir(exist_ok=True)
    file, step, seen = folder / "state.pt", 0, []
    if file.exists():
        state = torch.load(file)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        if hasattr(data, "load_state_dict"):
            data.load_state_dict(state["data"])
    for epoch in range(step // len(data), EPOCHS):
        if hasattr(data, "set_epoch"):
            data.set_epoch(epoch)
        for batch in data:
            optimizer.zero_grad()
            loss_of(trained, batch).backward()
            optimizer.step()
            seen.append(batch["id"].tolist())
            step += 1
            if step == stop:
                kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                if int(os.environ.get("RANK", 0)) == 0:
                    torch.save({**kept, "data": data.state_dict() if hasattr(data, "state_dict") else None}, file)
                return seen, weights(model)
    return seen, weights(model)


def by_accelerate(folder: Path, data: Any, stop: int | None = None) -> Outcome:
    import accelerate

    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer, data = accelerator.prepare(*fresh(), data)
    progress = Progress()
    accelerator.register_for_checkpointing(progress)
    if isinstance(data, Loader):
        accelerator.register_for_checkpointing(data)
    if folder.exists():
        accelerator.load_state(str(folder))
    seen = []
    for epoch in range(progress.step // len(data), EPOCHS):
        if hasattr(data, "set_epoch"):
            data.set_epoch(epoch)
        for batch in data:
            optimizer.zero_grad()
            accelerator.backward(loss_of(model, batch))
            optimizer.step()
            seen.append(batch["id"].tolist())
            progress.step += 1
            if progress.step == stop:
                accelerator.save_state(str(folder))
                return seen, weights(accelerator.unwrap_model(model))
    return seen, weights(accelerator.unwrap_model(model))


class Progress:
    """The step, as accelerate keeps it."""

    step = 0

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


def by_lightning(folder: Path, data: Any, stop: int | None = None) -> Outcome:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.optimizer = fresh()
            self.seen: list[list[int]] = []

        def training_step(self, batch: Any) -> Any:
            self.seen.append(batch["id"].tolist())
            return loss_of(self.model, batch)

        def configure_optimizers(self) -> Any:
            return self.optimizer

    module, file = Module(), folder / "stopped.ckpt"
    saving = lightning.pytorch.callbacks.ModelCheckpoint(folder, "stopped", every_n_train_steps=stop)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        max_steps=stop or -1,
        accelerator="cpu",
        logger=False,
        callbacks=[saving] if stop else [],
        enable_checkpointing=stop is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
    )
    trainer.fit(module, data, ckpt_path=file if file.exists() else None, weights_only=False)
    return module.seen, weights(module.model)


def by_transformers(folder: Path, data: Any, stop: int | None = None) -> Outcome:
    import transformers

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.optimizer = fresh()
            self.seen: list[list[int]] = []

        def forward(self, **batch: Any) -> Any:
            self.seen.append(batch["id"].tolist())
            return {"loss": loss_of(self.model, batch)}

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self) -> Any:
            return data

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = control.should_save = state.global_step == stop

    model = Model()
    options = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        use_cpu=True,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = Trainer(model, options, optimizers=(model.optimizer, None), callbacks=[Stop()])
    kept = next(folder.glob("checkpoint-*"), None)
    trainer.train(resume_from_checkpoint=str(kept) if kept else None)
    return model.seen, weights(model.model)


LOOPS: dict[str, Callable[..., Outcome]] = {
    "accelerate": by_accelerate,
    "lightning": by_lightning,
    "torch": by_hand,
    "transformers": by_transformers,
}
"""The package that each needs, and the loop."""


if __name__ == "__main__":
    package, folder, stop, output = sys.argv[1:]
    torch.save(LOOPS[package](Path(folder), a_loader(), int(stop) or None), Path(output) / f"{os.environ['RANK']}.pt")
    os._exit(0)  # some frameworks' threads outlive their groups
