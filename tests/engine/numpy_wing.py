"""A second wing, in NumPy alone: a small classifier with dropout, micro-batches, Adam, a schedule, a plateau and an average.

It shares no line with the torch wing, so an engine that drives both through `mapsto.engine.wing` is neutral.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from mapsto.core.errors import CheckpointError, DataError
from mapsto.core.parts import build as build_part
from mapsto.core.random import generator
from mapsto.core.wings import Framework

FRAMEWORK = Framework(name="numpy", program="numpy_wing", given={"optimizer": ("params",)})
GLOBAL = {"stream": 0}
"""What stands for a framework's global random stream."""


class Model:
    """Options of the one model that this wing has."""

    def __init__(self, inputs: int, hidden: int = 6, classes: int = 3, dropout: float = 0.3, micro: int = 3) -> None:
        self.inputs, self.hidden, self.classes, self.dropout, self.micro = inputs, hidden, classes, dropout, micro


class Program:
    def __init__(self, options: Model, lr: float, total_steps: int, seed: int) -> None:
        self.options, self.seed, self.lr, self.total = options, seed, lr, total_steps
        rng = generator(seed, "init")
        sizes = {"w1": (options.inputs, options.hidden), "b1": (options.hidden,), "w2": (options.hidden, options.classes)}
        self.model = {n: rng.normal(0, 0.5, s) for n, s in sizes.items()}
        self.m = {n: np.zeros_like(w) for n, w in self.model.items()}
        self.v = {n: np.zeros_like(w) for n, w in self.model.items()}
        self.ema = {n: w.copy() for n, w in self.model.items()}
        self.plateau = {"best": float("inf"), "factor": 1.0, "seen": Counter()}
        self.taken = 0

    reader_args, attention_requested = {}, False  # of one process

    @property
    def position(self) -> int:
        return self.taken

    def _forward(self, model, x, mask=None):
        hidden = np.tanh(x @ model["w1"] + model["b1"])
        dropped = hidden if mask is None else hidden * mask
        logits = dropped @ model["w2"]
        shifted = logits - logits.max(1, keepdims=True)
        return hidden, dropped, shifted - np.log(np.exp(shifted).sum(1, keepdims=True))

    def step(self, batch):
        x, y = batch["input"], batch["target"]
        if np.isnan(x).any():
            raise DataError("the batch holds not-a-number")
        grads = {n: np.zeros_like(w) for n, w in self.model.items()}
        total = 0.0
        for shard, rows in enumerate(np.array_split(np.arange(len(y)), self.options.micro)):
            rng = generator(self.seed, "step", self.taken, shard)
            mask = (rng.random((len(rows), self.options.hidden)) > self.options.dropout) / (1 - self.options.dropout)
            hidden, dropped, logp = self._forward(self.model, x[rows], mask)
            total += -logp[np.arange(len(rows)), y[rows]].sum()
            delta = np.exp(logp)
            delta[np.arange(len(rows)), y[rows]] -= 1
            back = (delta @ self.model["w2"].T) * mask * (1 - hidden**2)
            for name, g in (("w1", x[rows].T @ back), ("b1", back.sum(0)), ("w2", dropped.T @ delta)):
                grads[name] += g / len(y)
        self.taken += 1
        rate = self.rates()["lr"]
        for n, g in grads.items():
            self.m[n] = 0.9 * self.m[n] + 0.1 * g
            self.v[n] = 0.99 * self.v[n] + 0.01 * g * g
            first, second = self.m[n] / (1 - 0.9**self.taken), self.v[n] / (1 - 0.99**self.taken)
            self.model[n] = self.model[n] - rate * first / (np.sqrt(second) + 1e-8)
            self.ema[n] = 0.9 * self.ema[n] + 0.1 * self.model[n]
        return {"loss": (np.float64(total), len(y)), "norm": np.sqrt(sum((g * g).sum() for g in grads.values()))}

    def rates(self):
        return {"lr": self.lr * self.plateau["factor"] * (1 - 0.9 * self.taken / max(self.total, 1))}

    @staticmethod
    def fetch(window):
        pairs = [m["loss"] for m in window]
        return {
            "loss": float(sum(s for s, _ in pairs) / sum(w for _, w in pairs)),
            "norm": float(np.mean([m["norm"] for m in window])),
        }

    def evaluate(self, batches):
        total = right = count = 0.0
        np.random.random(3)  # an evaluation that draws from the global streams
        GLOBAL["stream"] += 1
        for batch in batches:
            logp = self._forward(self.ema, batch["input"])[2]
            total -= logp[np.arange(len(logp)), batch["target"]].sum()
            right += (logp.argmax(1) == batch["target"]).sum()
            count += len(logp)
        return {"loss": total / count, "accuracy": right / count}

    def predict(self, batches):
        for batch in batches:
            yield {"class": self._forward(self.ema, batch["input"])[2].argmax(1)}

    def panels(self, batches):
        return [{"kind": "counts", "values": sum(np.bincount(p["class"], minlength=3) for p in self.predict(batches))}]

    def observe(self, metrics):
        self.plateau["seen"][self.taken] += 1
        if metrics["valid/loss"] >= self.plateau["best"]:
            self.plateau["factor"] *= 0.5
        self.plateau["best"] = min(self.plateau["best"], metrics["valid/loss"])

    def weights(self):
        return {n: w.copy() for n, w in self.model.items()}

    def state_tree(self):
        trees = {n: dict(getattr(self, n)) for n in ("model", "m", "v", "ema")}
        return {**trees, "plateau": {**self.plateau, "seen": Counter(self.plateau["seen"])}, "step": self.taken}

    def restore(self, tree):
        if set(tree) != {"model", "m", "v", "ema", "plateau", "step"} or set(tree["model"]) != set(self.model):
            raise CheckpointError("the keys do not fit")
        for name in ("model", "m", "v", "ema"):
            setattr(self, name, dict(tree[name]))
        self.plateau, self.taken = tree["plateau"], tree["step"]

    def summary(self):
        return {"model": "numpy", "parameters": sum(w.size for w in self.model.values())}


def classify(model, batch):
    """The one task that this wing has, and which it does itself."""
    raise NotImplementedError


def adam(params, lr: float = 0.05) -> float:
    return lr


def build(spec, injected):
    rate = build_part(spec.optimizer, "optimizer", None, path="optimizer")
    return Program(build_part(spec.model, "model", path="model"), rate, injected["total_steps"], injected["seed"])


def ranks(spec):
    return None


def is_tensor(value):
    return isinstance(value, np.ndarray)


def save_tensors(tensors, path: Path):
    save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, path)


def host(tensors, held):
    return {n: t.copy() for n, t in tensors.items()}


def is_shard(_):
    return False


def load_tensors(path: Path):
    return load_file(path)


def versions():
    return {"numpy_wing": "1"}


@contextlib.contextmanager
def deterministic():
    held = dict(GLOBAL)
    yield
    GLOBAL.update(held)
