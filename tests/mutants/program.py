"""Specs with a planted bug in one of their parts or in how checkpoints are written, and their correct twins."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import nn

import mapsto
from mapsto import use
from mapsto.core.errors import CheckpointError
from mapsto.data.reader import Batches
from mapsto.engine.checkpoints.checkpoint import Checkpoints
from mapsto.engine.laws.runs import usual

from . import Mutant


def usual_spec():
    """Everything in it keeps its state."""
    return usual()


# -- state ---------------------------------------------------------------------------------------------------------------
class Ramp:
    """Gradients grow over five updates, which it counts."""

    def __init__(self):
        self.count = torch.zeros(())

    def update(self, inner):
        def outer(state, metrics):
            self.count = self.count + 1
            for parameter in state.parameters:
                parameter.grad.mul_(min(float(self.count) / 5, 1.0))
            return inner(state, metrics)

        return outer

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, tree):
        if set(tree) != {"count"}:
            raise CheckpointError(f"ramp: wanted count, got {sorted(tree)}")
        self.count = tree["count"]


class CountsItsSaves(Ramp):
    def state_dict(self):
        self.count = self.count + 1
        return super().state_dict()


class Casts(Ramp):
    def load_state_dict(self, tree):
        self.count = tree["count"].bfloat16()


class LeavesOut(Ramp):
    def load_state_dict(self, tree):
        self.count = tree.get("count", self.count)


class Momentum(torch.optim.SGD):
    """SGD whose buffers are not in its state."""

    def __init__(self, params, lr=0.02):
        super().__init__(params, lr)
        self.buffers = {}

    def step(self, closure=None):
        for group in self.param_groups:
            for i, parameter in enumerate(group["params"]):
                if parameter.grad is not None:
                    self.buffers[i] = 0.9 * self.buffers.get(i, 0) + parameter.grad
                    parameter.data.sub_(group["lr"] * self.buffers[i])


class Noisy(nn.Module):
    """Adds noise in training, drawn from the stream that the program seeds."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 3)
        self.generator = None

    def forward(self, x):
        noise = torch.randn(x.shape, generator=self.generator) if self.training else 0
        return self.inner(x + noise)


class NoisyByItself(Noisy):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)


class JittersByItself:
    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, batch):
        return {**batch, "input": batch["input"] + self.rng.standard_normal(batch["input"].shape).astype(np.float32)}


def _with(**changes):
    return usual(middleware=[], schedule=None, **changes)


def ramp():
    return usual(middleware=[use(Ramp)])


def counts_its_saves():
    return usual(middleware=[use(CountsItsSaves)])


def casts():
    return usual(middleware=[use(Casts)])


def leaves_out():
    return usual(middleware=[use(LeavesOut)])


def loses_momentum():
    return _with(optimizer=use(Momentum))


def keeps_momentum():
    return _with(optimizer=use("sgd", lr=0.02, momentum=0.9))


def noisy():
    return _with(model=use(Noisy))


def noisy_by_itself():
    return _with(model=use(NoisyByItself))


def jitters_by_itself():
    train = {"source": {"use": "mapsto.engine.laws.runs:Blobs"}, "batch_size": 8, "transforms": [use(JittersByItself)]}
    return _with(data={"train": train})


# -- writing -------------------------------------------------------------------------------------------------------------
class InPlace(Checkpoints):
    """Writes under the final name."""

    def save(self, step, tree, about):
        final = self.path(step)
        final.mkdir(parents=True)
        self.begin(step, tree, about).fill(final)
        return final


class FileByFile(Checkpoints):
    """Each file is renamed when it is complete."""

    def save(self, step, tree, about):
        final, temporary = self.path(step), self.folder / f".step-{step}.tmp"
        temporary.mkdir(parents=True)
        self.begin(step, tree, about).fill(temporary)
        final.mkdir()
        for name in sorted(os.listdir(temporary)):
            os.rename(temporary / name, final / name)
        temporary.rmdir()
        return final


class Overwrites(Checkpoints):
    """Keeps one checkpoint: the last is removed before the next is written."""

    def save(self, step, tree, about):
        import shutil

        for path in self.paths():
            shutil.rmtree(path)
        return super().save(step, tree, about)


class Halves(Checkpoints):
    """Float32 tensors are kept in bfloat16."""

    def save(self, step, tree, about):
        def halved(value):
            if isinstance(value, dict):
                return {k: halved(v) for k, v in value.items()}
            if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
                return value.bfloat16()
            return value

        return super().save(step, halved(tree), about)


def in_place():
    return usual()


def file_by_file():
    return usual()


def overwrites():
    return usual()


def halves():
    return usual()


for _target, _store in ((in_place, InPlace), (file_by_file, FileByFile), (overwrites, Overwrites), (halves, Halves)):
    mapsto.example(_target, checkpoints=_store)


# -- ranks ---------------------------------------------------------------------------------------------------------------
def sums(model, batch):
    """Summed squared errors and the number of records."""
    prediction = model(batch["input"])[:, 0]
    return ((prediction - batch["target"]) ** 2).sum(), len(prediction), prediction


def means(model, batch):
    total, weight, prediction = sums(model, batch)
    return total / weight, 1, prediction


def centred(model, batch):
    """Targets are centred over the batch that a rank happens to see."""
    return sums(model, {**batch, "target": batch["target"] - batch["target"].double().mean()})


class DividesByRecords:
    """Divides the gradients of its pass by its own records, also where somebody outside divides by all of them."""

    def grad(self, inner):
        def outer(state, batch):
            metrics = inner(state, batch)
            if state.summing:
                for parameter in state.parameters:
                    parameter.grad.div_(len(batch["input"]))
            return metrics

        return outer


class PadsRanks(Batches):
    """Shards of one size: the first records are given to the last shard again."""

    def batch(self, position, shard=0, shards=1):
        if shards == 1:
            return super().batch(position)
        indices = self.indices(position)
        padded = np.resize(indices, -(-len(indices) // shards) * shards)
        return self.source[padded[shard::shards]]


def _ranked(task=sums, middleware=(), reader=None):
    source = {"source": {"use": "mapsto.engine.laws.runs:Blobs"}, "batch_size": 8}
    train = {**source, "shuffle": True, "transforms": [{"use": "mapsto.engine.laws.runs:jitter"}]}  # drawn for each shard
    data = {"train": train, "valid": source if reader is None else use(reader, **source)}
    return usual(task=task, middleware=middleware, data=data, optimizer=use("sgd", lr=0.05))


def ranked():
    return _ranked(middleware=[use("mixup", alpha=0.4)])


def ranked_means():
    return _ranked(means)


def ranked_centred():
    return _ranked(centred)


def ranked_divides():
    return _ranked(middleware=[use(DividesByRecords)])


def ranked_pads():
    return _ranked(reader=PadsRanks)


MUTANTS = [
    Mutant(
        law="program.save_restore",
        name="its state_dict counts its calls",
        bug=counts_its_saves,
        twin=ramp,
        models="accelerate#4308",
    ),
    Mutant(law="program.save_restore", name="state is cast when it is loaded", bug=casts, twin=ramp, models="pytorch#43706"),
    Mutant(
        law="program.save_restore",
        name="the file holds another dtype",
        bug=halves,
        twin=usual_spec,
        models="checkpoints in half precision",
    ),
    Mutant(
        law="program.resume", name="momentum is in no state", bug=loses_momentum, twin=keeps_momentum, models="torchtitan#1213"
    ),
    Mutant(
        law="program.resume",
        name="a layer has a generator of its own",
        bug=noisy_by_itself,
        twin=noisy,
        models="pytorch-lightning#17543",
    ),
    Mutant(
        law="program.resume",
        name="a transform keeps its generator",
        bug=jitters_by_itself,
        twin=usual_spec,
        models="augmentation after a resume",
    ),
    Mutant(
        law="program.torn_writes", name="it is written in place", bug=in_place, twin=usual_spec, models="pytorch-lightning#688"
    ),
    Mutant(
        law="program.torn_writes",
        name="the last is removed first",
        bug=overwrites,
        twin=usual_spec,
        models="pytorch-lightning#19970",
    ),
    Mutant(law="program.all_or_nothing", name="file by file", bug=file_by_file, twin=usual_spec, models="adaptdl#81"),
    Mutant(law="program.keys", name="a missing key is left out", bug=leaves_out, twin=ramp, models="silent partial load"),
    Mutant(
        law="program.ranks", name="the loss is a mean of weight 1", bug=ranked_means, twin=ranked, models="transformers#34242"
    ),
    Mutant(
        law="program.ranks",
        name="targets are centred over the local batch",
        bug=ranked_centred,
        twin=ranked,
        models="statistics of a shard",
    ),
    Mutant(law="program.ranks", name="gradients are divided twice", bug=ranked_divides, twin=ranked, models="Automodel#3830"),
    Mutant(
        law="program.exact_evaluation", name="records pad the last shard", bug=ranked_pads, twin=ranked, models="composer#2218"
    ),
]
