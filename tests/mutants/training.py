"""Trainings with a planted bug, and their correct twin: a hand-written loop around a small model of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

import mapsto
from mapsto.core.laws import Example

from . import Mutant

IGNORED = -100


def token_records(count: int = 12) -> list[dict[str, Any]]:
    """Records of six tokens, of whose labels one to five are ignored, as padding is."""
    draw = np.random.default_rng(0)
    found = []
    for number in range(count):
        labels = draw.integers(0, 11, 6)
        labels[6 - (1 + number % 5) :] = IGNORED
        found.append({"tokens": draw.integers(0, 11, 6), "labels": labels})
    return found


def _chunks(items: Sequence[Any], size: int) -> list[Any]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _fields(records: Any) -> tuple[torch.Tensor, torch.Tensor]:
    taken = list(records)
    return tuple(torch.from_numpy(np.stack([r[name] for r in taken])) for name in ("tokens", "labels"))  # type: ignore[return-value]


def summed(model: nn.Module, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy(model(tokens).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


class Loop:
    """Keeps every law; each bug changes one method."""

    def __call__(
        self, data: Any, *, seed: int, batch_size: int, steps: int, accumulate: int = 1, clip: float | None = None,
        shuffle: bool = True, dropout: bool = True, until: int | None = None, save: Path | None = None,
        resume: Path | None = None, evaluate_every: int | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        self.seed(seed)
        model = self.model(dropout)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / steps)
        parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
        done = self.restore(parts, resume) if resume else 0
        for step, batches in self.windows(data, seed, batch_size, accumulate, shuffle, done):
            self.update(parts, [_fields(data[i] for i in b) for b in batches], accumulate, clip)
            done = step + 1
            if evaluate_every and done % evaluate_every == 0:
                self.look(model, data, batch_size)
            if done == (until or steps):
                break
        if save:
            self.save(parts, done, save)
        return {n: p.detach().numpy() for n, p in model.state_dict().items()}

    def seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def model(self, dropout: bool) -> nn.Module:
        return nn.Sequential(nn.Embedding(11, 8), nn.Dropout(0.2 if dropout else 0.0), nn.Linear(8, 11))

    def windows(
        self, data: Any, seed: int, batch_size: int, accumulate: int, shuffle: bool, done: int
    ) -> Iterator[tuple[int, Any]]:
        """The micro-batches of every update from `done` on."""
        step, epoch = 0, 0
        while True:
            order = self.order(len(data), seed, epoch) if shuffle else list(range(len(data)))
            for window in self.cut(order, batch_size, accumulate):
                if step >= done:
                    yield step, window
                step += 1
            epoch += 1

    def cut(self, order: list[int], batch_size: int, accumulate: int) -> list[Any]:
        return _chunks(_chunks(order, batch_size), accumulate)

    def order(self, count: int, seed: int, epoch: int) -> list[int]:
        return torch.randperm(count, generator=torch.Generator().manual_seed(1000 * seed + epoch)).tolist()

    def update(self, parts: dict[str, Any], batches: list[Any], accumulate: int, clip: float | None) -> None:
        model, weight = parts["model"], sum(int((labels != IGNORED).sum()) for _, labels in batches)
        parts["optimizer"].zero_grad()
        for tokens, labels in batches:
            (summed(model, tokens, labels) / weight).backward()
        if clip:
            clip_grad_norm_(model.parameters(), clip)
        parts["optimizer"].step()
        parts["schedule"].step()

    def look(self, model: nn.Module, data: Any, batch_size: int) -> None:
        model.eval()
        with torch.no_grad():
            for batch in _chunks(range(len(data)), batch_size):
                summed(model, *_fields(data[i] for i in batch))
        model.train()

    def save(self, parts: dict[str, Any], done: int, folder: Path) -> None:
        kept = {name: part.state_dict() for name, part in parts.items()}
        torch.save({**kept, "done": done, "random": torch.get_rng_state()}, folder / "state.pt")

    def restore(self, parts: dict[str, Any], folder: Path) -> int:
        kept = torch.load(folder / "state.pt", weights_only=False)
        for name, part in parts.items():
            part.load_state_dict(kept[name])
        torch.set_rng_state(kept["random"])
        return int(kept["done"])


def evaluate(data: Any, *, seed: int, batch_size: int) -> dict[str, float]:
    """The mean loss of a token that is not ignored."""
    torch.manual_seed(seed)
    model, total, weight = Loop().model(dropout=True).eval(), 0.0, 0
    with torch.no_grad():
        for batch in _chunks(range(len(data)), batch_size):
            tokens, labels = _fields(data[i] for i in batch)
            total, weight = total + float(summed(model, tokens, labels)), weight + int((labels != IGNORED).sum())
    return {"loss": total / weight}


# -- the seed ----------------------------------------------------------------------------------------------------------
class Unseeded(Loop):
    def seed(self, seed: int) -> None:
        pass


class SeedNotRead(Loop):
    def seed(self, seed: int) -> None:
        torch.manual_seed(0)

    def order(self, count: int, seed: int, epoch: int) -> list[int]:
        return super().order(count, 0, epoch)


class KeepsTheModel(Loop):
    """The model of the run before is trained on."""

    kept: nn.Module | None = None

    def model(self, dropout: bool) -> nn.Module:
        self.kept = self.kept or super().model(dropout)
        return self.kept


# -- accumulating ------------------------------------------------------------------------------------------------------
class MeanOfMeans(Loop):
    def update(self, parts: dict[str, Any], batches: list[Any], accumulate: int, clip: float | None) -> None:
        parts["optimizer"].zero_grad()
        for tokens, labels in batches:
            (summed(parts["model"], tokens, labels) / (labels != IGNORED).sum() / len(batches)).backward()
        if clip:
            clip_grad_norm_(parts["model"].parameters(), clip)
        parts["optimizer"].step()
        parts["schedule"].step()


class LastWindowDivided(Loop):
    """The gradient of a window that is cut short is divided by as many micro-batches as the others have."""

    def update(self, parts: dict[str, Any], batches: list[Any], accumulate: int, clip: float | None) -> None:
        hook = [p.register_hook(lambda gradient: gradient * len(batches) / accumulate) for p in parts["model"].parameters()]
        super().update(parts, batches, accumulate, clip)
        for one in hook:
            one.remove()


class DropsTheLast(Loop):
    """A micro-batch that is not full is left out."""

    def cut(self, order: list[int], batch_size: int, accumulate: int) -> list[Any]:
        kept = len(order) - len(order) % batch_size if len(order) > batch_size else len(order)
        return super().cut(order[:kept], batch_size, accumulate)


# -- clipping ----------------------------------------------------------------------------------------------------------
class ClipsWhatThereIs(Loop):
    """The gradient so far is clipped after each micro-batch."""

    def update(self, parts: dict[str, Any], batches: list[Any], accumulate: int, clip: float | None) -> None:
        model, weight = parts["model"], sum(int((labels != IGNORED).sum()) for _, labels in batches)
        parts["optimizer"].zero_grad()
        for tokens, labels in batches:
            (summed(model, tokens, labels) / weight).backward()
            if clip:
                self.bound(model, clip)
        parts["optimizer"].step()
        parts["schedule"].step()

    def bound(self, model: nn.Module, clip: float) -> None:
        clip_grad_norm_(model.parameters(), clip)


class ClipsEach(ClipsWhatThereIs):
    """The gradient of each micro-batch is clipped by itself."""

    def bound(self, model: nn.Module, clip: float) -> None:
        whole = [p.grad.clone() for p in model.parameters()]
        before = getattr(self, "before", None) or [torch.zeros_like(g) for g in whole]
        for p, was in zip(model.parameters(), before, strict=True):
            p.grad -= was
        clip_grad_norm_(model.parameters(), clip)
        for p, was in zip(model.parameters(), before, strict=True):
            p.grad += was
        self.before = [p.grad.clone() for p in model.parameters()]

    def update(self, *given: Any) -> None:
        self.before: Any = None
        super().update(*given)


class ClipsFirst(ClipsWhatThereIs):
    """Only the first micro-batch's gradient is clipped."""

    def bound(self, model: nn.Module, clip: float) -> None:
        if not self.clipped:
            clip_grad_norm_(model.parameters(), clip)
        self.clipped = True

    def update(self, *given: Any) -> None:
        self.clipped = False
        super().update(*given)


# -- interrupting ------------------------------------------------------------------------------------------------------
class _Forgets(Loop):
    part = ""

    def restore(self, parts: dict[str, Any], folder: Path) -> int:
        return super().restore({n: p for n, p in parts.items() if n != self.part}, folder)


class ForgetsMoments(_Forgets):
    part = "optimizer"


class ForgetsRates(_Forgets):
    part = "schedule"


class ForgetsRandom(Loop):
    def restore(self, parts: dict[str, Any], folder: Path) -> int:
        before = torch.get_rng_state()
        done = super().restore(parts, folder)
        torch.set_rng_state(before)
        return done


class EpochAgain(Loop):
    """A resumed run begins its epoch anew."""

    def windows(self, data: Any, seed: int, batch_size: int, accumulate: int, shuffle: bool, done: int) -> Iterator[Any]:
        per_epoch = len(_chunks(_chunks(range(len(data)), batch_size), accumulate))
        begun = done - done % per_epoch
        for step, window in super().windows(data, seed, batch_size, accumulate, shuffle, begun):
            yield step + done % per_epoch, window


class FirstOrderAgain(Loop):
    """A resumed run has the order of the first epoch."""

    def windows(self, data: Any, seed: int, batch_size: int, accumulate: int, shuffle: bool, done: int) -> Iterator[Any]:
        per_epoch = len(_chunks(_chunks(range(len(data)), batch_size), accumulate))
        for step, window in super().windows(data, seed, batch_size, accumulate, shuffle, done % per_epoch):
            yield step + done - done % per_epoch, window


# -- looking -----------------------------------------------------------------------------------------------------------
class StaysInEvaluation(Loop):
    def look(self, model: nn.Module, data: Any, batch_size: int) -> None:
        super().look(model, data, batch_size)
        model.eval()


class LooksInTraining(Loop):
    """Evaluates with dropout, which draws from the stream of the training."""

    def look(self, model: nn.Module, data: Any, batch_size: int) -> None:
        with torch.no_grad():
            summed(model, *_fields(data[i] for i in range(len(data))))


class ShufflesTheLook(Loop):
    """A loader without a generator of its own draws a seed from the global one."""

    def look(self, model: nn.Module, data: Any, batch_size: int) -> None:
        super().look(model, [data[i] for i in torch.randperm(len(data))], batch_size)


# -- reading -----------------------------------------------------------------------------------------------------------
class SameOrder(Loop):
    def order(self, count: int, seed: int, epoch: int) -> list[int]:
        return super().order(count, seed, 0)


class Replaced(Loop):
    """Drawn with replacement."""

    def order(self, count: int, seed: int, epoch: int) -> list[int]:
        return torch.randint(count, (count,), generator=torch.Generator().manual_seed(1000 * seed + epoch)).tolist()


class OrderWithoutSeed(Loop):
    def order(self, count: int, seed: int, epoch: int) -> list[int]:
        return super().order(count, 0, epoch)


# -- evaluating --------------------------------------------------------------------------------------------------------
def mean_of_batches(data: Any, *, seed: int, batch_size: int) -> dict[str, float]:
    parts = [evaluate([data[i] for i in b], seed=seed, batch_size=batch_size) for b in _chunks(range(len(data)), batch_size)]
    return {"loss": float(np.mean([p["loss"] for p in parts]))}


def drops_the_last(data: Any, *, seed: int, batch_size: int) -> dict[str, float]:
    kept = len(data) - len(data) % batch_size
    return evaluate([data[i] for i in range(kept)], seed=seed, batch_size=batch_size)


def pads_the_last(data: Any, *, seed: int, batch_size: int) -> dict[str, float]:
    missing = -len(data) % batch_size
    return evaluate([data[i] for i in [*range(len(data)), *range(missing)]], seed=seed, batch_size=batch_size)


def in_training(data: Any, *, seed: int, batch_size: int) -> dict[str, float]:
    torch.manual_seed(seed)
    model, total, weight = Loop().model(dropout=True), 0.0, 0
    for batch in _chunks(range(len(data)), batch_size):
        tokens, labels = _fields(data[i] for i in batch)
        total, weight = total + float(summed(model, tokens, labels).detach()), weight + int((labels != IGNORED).sum())
    return {"loss": total / weight}


def _evaluated_by(found: Callable[..., Any]) -> Loop:
    return mapsto.example(Loop(), records=token_records(), evaluate=found)


BUGS: dict[str, list[tuple[str, Any, str]]] = {
    "seeded": [
        ("no generator is seeded", Unseeded(), "a run that cannot be repeated"),
        ("the seed is not read", SeedNotRead(), "a seed that reaches no generator"),
        ("the model of the run before", KeepsTheModel(), "darts#2463"),
    ],
    "accumulation": [
        ("a mean of means", MeanOfMeans(), "transformers#34191, trl#2175"),
        ("a short window is divided as a full one", LastWindowDivided(), "transformers#37766"),
        ("a short micro-batch is dropped", DropsTheLast(), "a loader that drops what fills no batch"),
    ],
    "clipping": [
        ("the gradient so far is clipped", ClipsWhatThereIs(), "accelerate#641"),
        ("each micro-batch is clipped", ClipsEach(), "diffusers#721"),
        ("the first micro-batch is clipped", ClipsFirst(), "tt-metal#17568"),
    ],
    "resume": [
        ("moments are forgotten", ForgetsMoments(), "keys_values#101"),
        ("rates are forgotten", ForgetsRates(), "the_well#77"),
        ("random numbers are forgotten", ForgetsRandom(), "transformers#11323"),
        ("the epoch begins anew", EpochAgain(), "pytorch-lightning#1182"),
        ("the order of the first epoch", FirstOrderAgain(), "transformers#8878"),
    ],
    "undisturbed": [
        ("stays in evaluation mode", StaysInEvaluation(), "vsepp#4"),
        ("evaluates with dropout", LooksInTraining(), "sd-scripts#1864"),
        ("draws from the global stream", ShufflesTheLook(), "char-rnn#17"),
    ],
    "order": [
        ("every epoch in one order", SameOrder(), "pytorch#31771"),
        ("drawn with replacement", Replaced(), "a sampler with replacement"),
        ("the seed does not reach the order", OrderWithoutSeed(), "DALLE-pytorch#230"),
    ],
    "evaluation": [
        ("a mean of batches", _evaluated_by(mean_of_batches), "transformers#41898"),
        ("the last batch is dropped", _evaluated_by(drops_the_last), "a loader with drop_last"),
        ("the last batch is padded", _evaluated_by(pads_the_last), "transformers#16865, composer#2218"),
        ("evaluated with dropout", _evaluated_by(in_training), "molformer#8"),
    ],
}
STATED = Example(more={"records": token_records(), "evaluate": evaluate})
MUTANTS = [
    Mutant(law=f"training.{law}", name=name, bug=bug, twin=Loop(), models=models, example=STATED)
    for law, bugs in BUGS.items()
    for name, bug, models in bugs
]
