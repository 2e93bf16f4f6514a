"""A LightningModule with its Trainer, as a training: `mapsto check examples/trainers/lightning_trainer.py:train`."""

import logging
import sys
from pathlib import Path

import torch
from lightning import pytorch as pl
from torch.utils.data import DataLoader

import mapsto

sys.path.insert(0, str(Path(__file__).parent))
from tokens import RECORDS, Tagger, linear, loss_of, weights_of

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(pl.LightningModule):
    def __init__(self, dropout, steps):
        super().__init__()
        self.model, self.steps = Tagger(0.2 if dropout else 0.0), steps

    def training_step(self, batch, _):
        return loss_of(self.model, batch)

    def validation_step(self, batch, _):
        self.log("loss", loss_of(self.model, batch))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [{"scheduler": linear(optimizer, self.steps), "interval": "step"}]


class _Stop(pl.Callback):
    """Stops after an update, and saves there where that is asked for."""

    def __init__(self, until, save):
        self.until, self.save = until, save

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.until:
            trainer.should_stop = True
            if self.save:
                trainer.save_checkpoint(self.save / "last.ckpt")


QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
         "enable_model_summary": False, "num_sanity_val_steps": 0}  # fmt: skip


@mapsto.training("lightning_trainer")
def train(
    data, *, seed, batch_size, steps, accumulate=1, clip=None, shuffle=True, dropout=True, until=None,
    save=None, resume=None, evaluate_every=None,
):  # fmt: skip
    pl.seed_everything(seed, verbose=False)
    module, options = Module(dropout, steps), {}
    if evaluate_every:
        options = {"val_check_interval": evaluate_every * accumulate, "check_val_every_n_epoch": None}
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, accumulate_grad_batches=accumulate, gradient_clip_val=clip,
        callbacks=[_Stop(until, save)], **QUIET, **options,
    )  # fmt: skip
    others = DataLoader(data, batch_size) if evaluate_every else None
    trainer.fit(module, DataLoader(data, batch_size, shuffle=shuffle), others, ckpt_path=resume and str(resume / "last.ckpt"))
    return weights_of(module)


def evaluate(data, *, seed, batch_size):
    pl.seed_everything(seed, verbose=False)
    return pl.Trainer(**QUIET).validate(Module(True, 1), DataLoader(data, batch_size), verbose=False)[0]


mapsto.example(train, records=RECORDS, evaluate=evaluate)
