"""Laws of middleware: what must be stated, and what is not asked of whom."""

from __future__ import annotations

import torch

import mapsto
from mapsto.check.targets import complete
from mapsto.core.laws import Example, Subject, Trial, find_law, verdict
from mapsto.core.registry import registry
from mapsto.testing import laws_of
from mapsto.torch.mappings import Metrics, Update
from mapsto.torch.state import State

OWN = [e.key for e in registry.entries("middleware") if e.origin.startswith("mapsto")]


@laws_of(*OWN)
def test_our_own_keep_them(law):
    law()


class Halves:
    def update(self, inner: Update) -> Update:
        def outer(state: State, metrics: Metrics) -> Metrics:
            for parameter in state.parameters:
                parameter.grad.mul_(0.5)
            return inner(state, metrics)

        return outer


def judged(law, target=Halves, **fields):
    example = Example(**fields)
    subject = Subject(kind="middleware", label="here:Halves", reference="", target=target, example=example, wing="torch")
    return verdict(Trial(complete(subject), find_law(law)))


def test_a_neutral_setting_is_asked_for():
    made = judged("middleware.neutral")
    assert made.status == "not stated"
    assert "mapsto.example(Halves, args={...}, neutral={...})" in made.reason
    assert judged("middleware.neutral", more={"neutral": None}).status == "not applicable"


def test_a_formula_is_asked_for_where_gradients_change():
    made = judged("middleware.true_gradients")
    assert made.status == "not stated"
    assert "mapsto.example(Halves, edits=lambda gradients: [...])" in made.reason
    assert judged("middleware.true_gradients", more={"edits": lambda grads: [g / 2 for g in grads]}).status == "pass"
    wrong = judged("middleware.true_gradients", more={"edits": lambda grads: [g / 4 for g in grads]})
    assert wrong.status == "fail"
    assert wrong.witness.cause == "a constant factor of 2 throughout"


def test_a_formula_that_changes_nothing_proves_nothing():
    class Idle(Halves):
        def update(self, inner):
            return lambda state, metrics: inner(state, metrics)

    made = judged("middleware.true_gradients", Idle, more={"edits": lambda gradients: list(gradients)})
    assert made.status == "vacuous"


def test_a_function_and_a_model_of_its_author():
    @mapsto.middleware("doubles_for_a_test", wraps="update")
    def doubles(inner, factor: float = 2.0):
        def outer(state, metrics):
            for parameter in state.parameters:
                parameter.grad.mul_(factor)
            return inner(state, metrics)

        return outer

    def images(size, generator):
        x = torch.randn(size, 1, 4, 4, generator=generator)
        return ({"input": x, "target": torch.randint(0, 2, (size,), generator=generator)},)

    def model():
        return torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.Flatten(), torch.nn.Linear(12, 2))

    for law, more in (
        ("middleware.neutral", {"neutral": {"factor": 1.0}}),
        ("middleware.accumulation", {}),
        ("middleware.resume", {}),
        ("middleware.exceptions", {}),
    ):
        made = judged(law, doubles, args={"factor": 2.0}, inputs=images, more={"model": model, **more})
        assert made.status == "pass", (law, made.reason)


def test_one_that_cannot_be_built_says_so():
    class Needs(Halves):
        def __init__(self, rate):
            self.rate = rate

    made = judged("middleware.resume", Needs)
    assert made.status == "unknown"
    assert "needs rate" in made.reason
    assert "mapsto.example(Halves, args={...})" in made.reason
