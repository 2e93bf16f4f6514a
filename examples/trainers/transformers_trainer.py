"""The Trainer of transformers, as a training: `mapsto check examples/trainers/transformers_trainer.py:train`."""

import shutil
import sys
import tempfile
from pathlib import Path

from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

import mapsto

sys.path.insert(0, str(Path(__file__).parent))
from tokens import RECORDS, weights_of


def _model(dropout: bool) -> GPT2LMHeadModel:
    rate = 0.1 if dropout else 0.0
    sizes = {"vocab_size": 11, "n_positions": 6, "n_embd": 8, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(
        GPT2Config(**sizes, resid_pdrop=rate, embd_pdrop=rate, attn_pdrop=rate, bos_token_id=0, eos_token_id=0)
    )


def _trainer(model, data, folder, callbacks=(), **options):
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_strategy": "no", "save_strategy": "no"}
    args = TrainingArguments(output_dir=folder, **quiet, **options)
    return Trainer(
        model, args, train_dataset=data, eval_dataset=data, data_collator=default_data_collator, callbacks=list(callbacks)
    )


class _Stop(TrainerCallback):
    """Stops after an update, and saves there where that is asked for."""

    def __init__(self, until, save):
        self.until, self.save = until, save

    def on_step_end(self, _, state, control, **__):
        if state.global_step == self.until:
            control.should_save, control.should_training_stop = self.save is not None, True


@mapsto.training("transformers_trainer")
def train(
    data, *, seed, batch_size, steps, accumulate=1, clip=None, shuffle=True, dropout=True, until=None,
    save=None, resume=None, evaluate_every=None,
):  # fmt: skip
    set_seed(seed)
    options = {"train_sampling_strategy": "random" if shuffle else "sequential", "max_grad_norm": clip or 0.0}
    if evaluate_every:
        options |= {"eval_strategy": "steps", "eval_steps": evaluate_every}
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(
            _model(dropout), data, folder, [_Stop(until, save)], seed=seed, max_steps=steps, optim="sgd", learning_rate=0.1,
            per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulate, **options,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=str(resume / "checkpoint") if resume else None)
        if save:
            shutil.copytree(Path(folder) / f"checkpoint-{until}", save / "checkpoint")
    return weights_of(trainer.model)


def evaluate(data, *, seed, batch_size):
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        return {"loss": _trainer(_model(True), data, folder, per_device_eval_batch_size=batch_size).evaluate()["eval_loss"]}


mapsto.example(train, records=RECORDS, evaluate=evaluate)
