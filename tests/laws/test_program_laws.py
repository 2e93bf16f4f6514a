"""Laws of observers, programs and surgery: what is shortened, what is stated, what is never reached."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mapsto
from mapsto import use
from mapsto.check.targets import complete
from mapsto.core.laws import Example, Subject, Trial, find_law, verdict
from mapsto.core.registry import registry
from mapsto.engine.laws.runs import Blobs, first_difference, shortened, usual
from mapsto.testing import laws_of

OBSERVERS = [e.key for e in registry.entries("observer") if e.origin.startswith("mapsto")]


@laws_of(*OBSERVERS)
def test_our_own_observers_keep_them(law):
    law()


def judged(kind, law, target, **fields):
    label = f"here:{getattr(target, '__name__', 'it')}"
    subject = Subject(kind=kind, label=label, reference="", target=target, example=Example(**fields), wing="torch")
    return verdict(Trial(complete(subject), find_law(law)))


def test_a_spec_is_cut_down():
    readers = {"source": {"use": "mapsto.engine.laws.runs:Blobs", "records": 5000}, "batch_size": 512, "workers": 4}
    spec = shortened(usual(data={"train": readers, "valid": readers}, steps=None, epochs=100, log_every=50))
    assert (spec.steps, spec.epochs, spec.log_every, spec.observers) == (5, None, 2, ())
    assert dict(spec.data["train"].args) | {"source": None} == {"source": None, "batch_size": 8, "limit": 23, "workers": 0}
    short = shortened(usual(steps=2))
    assert short.steps == 2


def test_a_reader_that_cannot_be_cut_down_is_kept():
    class Fixed:
        def __init__(self, path):
            self.path = path

    spec = shortened(usual(data={"train": use(Fixed, path="x")}))
    assert dict(spec.data["train"].args) == {"path": "x"}


@pytest.mark.parametrize("law", ["program.save_restore", "program.torn_writes"])
def test_a_live_spec_is_a_subject(law):
    assert judged("program", law, usual()).status == "pass"


def test_a_program_is_made_from_a_spec():
    made = judged("program", "program.resume", lambda: 3)
    assert made.status == "unknown"
    assert "gave a int" in made.reason


def test_a_run_that_breaks_is_the_finding():
    made = judged("program", "program.resume", lambda: usual(model=use("torch.nn:Linear", in_features=5, out_features=3)))
    assert made.status == "fail"
    assert made.reason.startswith("the run raised DataError")


def test_digests_tell_dtypes_and_missing_keys():
    one = {"a": np.zeros(3, np.float32), "b": [1, {"c": 2}]}
    assert first_difference(one, {"a": np.zeros(3, np.float32), "b": [1, {"c": 2}]}) is None
    assert first_difference({**one, "a": np.zeros(3)}, one) == "a"
    assert first_difference({**one, "b": [1, {"c": 3}]}, one) == "b[1].c"
    assert first_difference({"a": one["a"]}, one) == "b[0]"


def test_an_observer_that_cannot_be_built_says_what_to_write():
    class Needs:
        def __init__(self, server):
            self.server = server

        def __call__(self, event):
            """Nothing."""

    made = judged("observer", "observer.trajectory", Needs)
    assert made.status == "unknown"
    assert "mapsto.example(Needs, args={...})" in made.reason
    assert "with_program=lambda program" in made.reason


def test_an_observer_that_stops_the_run_is_compared_up_to_there():
    def stops(event):
        if event.step == 3:
            event.run.ask_to_stop("enough")

    assert judged("observer", "observer.trajectory", stops).status == "pass"
    assert judged("observer", "observer.memory", stops).status == "not applicable"


def test_an_observer_that_draws_leaves_no_trace():
    def draws(event):
        np.random.seed(3)
        for weight in event.run.weights().values():
            weight[...] = 0

    assert judged("observer", "observer.trajectory", draws).status == "pass"
    assert judged("observer", "observer.restores", draws).status == "pass"


def test_surgery_asks_for_a_neutral_setting():
    def same(model):
        return model

    made = judged("surgery", "surgery.neutral", same)
    assert made.status == "not stated"
    assert "neutral={...}" in made.reason
    assert judged("surgery", "surgery.neutral", same, more={"neutral": None}).status == "not applicable"
    nothing = judged("surgery", "surgery.neutral", same, more={"neutral": {}})
    assert nothing.status == "vacuous"


@pytest.mark.filterwarnings("ignore")  # it is to leave torch.ao
def test_weights_that_are_quantized_are_weights():
    def quantized(model):
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})

    assert judged("surgery", "surgery.something_happened", quantized).counts["changed"] == 16
    assert judged("surgery", "surgery.kept_weights", quantized).status == "pass"


def test_surgery_must_return_the_model():
    made = judged("surgery", "surgery.something_happened", lambda model: None)
    assert made.status == "fail"
    assert made.witness.cause == "a missing return"


def test_the_records_of_the_small_run_are_told_apart():
    assert len(Blobs(23)) == 23
    assert isinstance(usual(), mapsto.Spec)
