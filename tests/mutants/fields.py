"""Transforms of an image and its mask, drawn twice where once is due, and their right twins."""

from __future__ import annotations

from typing import Any

import numpy as np

from mapsto.core.laws import Example

from . import Mutant

Batch = dict[str, Any]


class Flips:
    """Flips images [n, h, w, 3] and their masks [n, h, w] along the width, each record or not."""

    masks = ("mask",)

    def __call__(self, batch: Batch, *, rng: np.random.Generator) -> Batch:
        kept = self.draw(len(batch["image"]), rng)
        made = {"image": flipped(batch["image"], kept)}
        for name in self.masks:
            made[name] = flipped(batch[name], self.again(kept, rng))
        return {**batch, **made}

    def draw(self, records: int, rng: np.random.Generator) -> Any:
        return rng.random(records) < 0.5

    def again(self, drawn: Any, rng: np.random.Generator) -> Any:
        return drawn


def flipped(x: Any, where: Any) -> Any:
    made = x.copy()
    made[where] = x[where, :, ::-1]
    return made


class FlipsTwice(Flips):
    """The image and the mask are flipped by two draws (albumentations#1056, keras-preprocessing#236)."""

    def again(self, drawn: Any, rng: np.random.Generator) -> Any:
        return self.draw(len(drawn), rng)


class FlipsOthers(Flips):
    """The mask is flipped where the image is not (albumentations#1196)."""

    def again(self, drawn: Any, rng: np.random.Generator) -> Any:
        return ~drawn


class Crops:
    """Cuts a window of [n, 3, h, w] and [n, 1, h, w], of another brightness the image alone, another place for each record."""

    size = 9

    def __call__(self, batch: Batch, *, rng: np.random.Generator) -> Batch:
        image, mask = batch["image"], batch["mask"]
        places = self.places(image, rng)
        bright = rng.uniform(0.7, 1.3, (len(image), 1, 1, 1)).astype(image.dtype)
        return {**batch, "image": self.cut(image, places) * bright, "mask": self.cut(mask, self.again(places, image, rng))}

    def places(self, image: Any, rng: np.random.Generator) -> Any:
        return rng.integers(0, image.shape[-1] - self.size + 1, (len(image), 2))

    def again(self, places: Any, image: Any, rng: np.random.Generator) -> Any:
        return places

    def cut(self, x: Any, places: Any) -> Any:
        windows = [r[:, i : i + self.size, j : j + self.size] for r, (i, j) in zip(x, places, strict=True)]
        return np.stack(windows) if windows else x[:, :, : self.size, : self.size]


class CropsTwice(Crops):
    """The window of the mask is another one (fastai#245)."""

    def again(self, places: Any, image: Any, rng: np.random.Generator) -> Any:
        return self.places(image, rng)


class Noises:
    """Noise of two pictures, each its own: nothing is moved, so nothing need be drawn together."""

    def __call__(self, batch: Batch, *, rng: np.random.Generator) -> Batch:
        return {n: v + 0.1 * rng.standard_normal(v.shape).astype(v.dtype) for n, v in batch.items()}


class NoisesAndTurns(Noises):
    """Each picture of a pair is turned upside down by a draw of its own (Augmentor#188)."""

    def __call__(self, batch: Batch, *, rng: np.random.Generator) -> Batch:
        made = super().__call__(batch, rng=rng)
        return {n: np.where((rng.random(len(v)) < 0.5)[:, None, None], v[:, ::-1], v) for n, v in made.items()}


def _last(size: int, rng: np.random.Generator) -> tuple[Batch, ...]:
    image = rng.integers(0, 256, (size, 12, 10, 3)).astype(np.uint8)
    return ({"image": image, "mask": rng.integers(0, 4, (size, 12, 10))},)


def _first(size: int, rng: np.random.Generator) -> tuple[Batch, ...]:
    image = rng.standard_normal((size, 3, 16, 16)).astype(np.float32)
    return ({"image": image, "mask": (rng.random((size, 1, 16, 16)) < 0.5).astype(np.float32)},)


def _pair(size: int, rng: np.random.Generator) -> tuple[Batch, ...]:
    return ({n: rng.standard_normal((size, 8, 8)).astype(np.float32) for n in ("left", "right")},)


def _mutant(bug: Any, twin: Any, inputs: Any) -> Mutant:
    models = (bug.__doc__ or "").splitlines()[0]
    return Mutant(
        law="transform.randomness", name=bug.__name__, bug=bug, twin=twin, models=models, example=Example(inputs=inputs)
    )


MUTANTS = [
    _mutant(FlipsTwice, Flips, _last),
    _mutant(FlipsOthers, Flips, _last),
    _mutant(CropsTwice, Crops, _first),
    _mutant(NoisesAndTurns, Noises, _pair),
]
