"""In a recipe the model is given what the task gives it, and a transform the batch before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mapsto.check.targets import of_spec
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
