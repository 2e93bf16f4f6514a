"""In a recipe the model is given what the task gives it, and a transform the batch before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mapsto.check.targets import of_spec, subjects
from mapsto.core.laws import Subject, Trial, find_law, verdict

RECIPE = """
import numpy as np
import torch

import mapsto
from mapsto import Spec, use
from mapsto.torch.tasks import Task


class Visits:
    def __len__(self):
        return 40

    def __getitem__(self, indices):
        return {"user": indices % 7, "price": 1.0 + indices.astype(np.float32), "bought": (indices % 2).astype(np.float32)}


def log_price(batch):
    return {**batch, "price": np.log(batch["price"])}


class Ranker(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.users, self.out = torch.nn.Embedding(7, 3), torch.nn.Linear(4, 1)

    def forward(self, user, price):
        return self.out(torch.cat([self.users(user), price[:, None]], 1)).squeeze(1)


class Buys(Task):
    def __init__(self):
        super().__init__(loss=None)

    def __call__(self, model, batch):
        scores = model(batch["user"], batch["price"])
        total = torch.nn.functional.binary_cross_entropy_with_logits(scores, batch["bought"], reduction="sum")
        return total, len(scores), scores

    def predict(self, outputs):
        return {"score": outputs}


def spec():
    train = {"source": use(Visits), "batch_size": 8, "transforms": [use(log_price)]}
    return Spec(name="visits", model=use(Ranker), task=use(Buys), data={"train": train}, optimizer=use("adamw"), steps=3)
"""


PARTS = """
class Damps:
    def __init__(self, names=("users",), factor=0.5):
        self.names, self.factor = tuple(names), factor

    def update(self, inner):
        def outer(state, metrics):
            for name, parameter in zip(state.names, state.parameters):
                if name.startswith(self.names) and parameter.grad is not None:
                    parameter.grad.mul_(self.factor)
            return inner(state, metrics)

        return outer


class DampsCopies(Damps):
    def update(self, inner):
        def outer(state, metrics):
            for name, parameter in zip(state.names, state.parameters):
                if name.startswith(self.names) and parameter.grad is not None:
                    parameter.grad = parameter.grad.clone()
            return inner(state, metrics)

        return outer


def priced(prediction, target):
    assert prediction.dim() == 1 and set(target.tolist()) <= {0.0, 1.0}, "a score and whether it was bought"
    return torch.nn.functional.binary_cross_entropy_with_logits(prediction, target, reduction="sum"), len(target)


class Prices(Task):
    def __init__(self, loss):
        super().__init__(loss)

    def __call__(self, model, batch):
        scores = model(batch["user"], batch["price"])
        total, weight = self.loss(scores, batch["bought"])
        return total, weight, scores

    def predict(self, outputs):
        return {"score": outputs}


def priced_spec():
    made = spec()
    return Spec(
        name="priced",
        model=made.model,
        task=use(Prices, loss=use(priced)),
        data=made.data,
        optimizer=made.optimizer,
        middleware=[use(Damps), use(DampsCopies)],
        steps=3,
    )
"""


def test_a_middleware_that_acts_by_name_and_a_loss_are_judged_in_their_recipe(tmp_path: Path) -> None:
    path = tmp_path / "priced_recipe.py"
    path.write_text(RECIPE + PARTS)
    parts = {s.label: s for s in of_spec(f"{path}:priced_spec") if isinstance(s, Subject)}
    ways = ("damps", "damps_copies")
    right, wrong = (verdict(Trial(parts[f"middleware.{way}"], find_law("middleware.effect"))) for way in ways)
    assert (right.status, wrong.status) == ("pass", "fail"), (right.reason, wrong.reason)
    alone = verdict(Trial(subjects([f"{path}:Damps"], kind="middleware")[0], find_law("middleware.effect")))
    assert alone.status == "unknown"
    assert "model=" in alone.reason
    for law in ("loss.additivity", "loss.gradients", "loss.degenerate"):
        made = verdict(Trial(parts["task.loss"], find_law(law)))
        assert made.status == "pass", (law, made.reason)
        assert "recipe's task" in made.reason


@pytest.mark.parametrize("records", [40, 3])
def test_a_model_of_several_inputs_and_a_transform_of_its_own_fields_are_fed_by_it(tmp_path: Path, records: int) -> None:
    path = tmp_path / f"visits_recipe_{records}.py"
    path.write_text(RECIPE.replace("return 40", f"return {records}"))
    parts = {s.label: s for s in of_spec(str(path)) if isinstance(s, Subject)}
    owed = {"model": ("layer.gradients", "layer.layout"), "data.train.transforms.0": ("transform.purity", "transform.records")}
    for label, law in ((label, law) for label, laws in owed.items() for law in laws):
        made = verdict(Trial(parts[label], find_law(law)))
        assert made.status == "pass", (label, law, made.reason)
    assert "recipe's task" in verdict(Trial(parts["model"], find_law("layer.gradients"))).reason


@pytest.mark.parametrize("order", ['"shuffled"', 'use("weighted", weights="price")', 'use("balanced", by="user")'])
def test_an_order_is_judged_over_the_records_of_its_recipe_and_with_other_seeds(tmp_path: Path, order: str) -> None:
    file = tmp_path / "drawn.py"
    file.write_text(RECIPE.replace('"batch_size": 8', f'"batch_size": 8, "order": {order}'))
    found = {s.label: s for s in of_spec(str(file)) if isinstance(s, Subject)}
    for label, law in (
        ("data.train.order", "order.epochs"),
        ("data.train.order", "order.bijection"),
        ("data.train", "reader.epochs"),
    ):
        assert verdict(Trial(found[label], find_law(law), seed=0)).status == "pass", (label, law)
