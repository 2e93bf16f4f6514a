"""Laws of losses beyond their mutants: inputs that are found, what is asked of the author, what a failure says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.check.targets import of_target
from mapsto.core.laws import Subject, Trial, Verdict, example, find_law, verdict
from mapsto.core.registry import registry
from mapsto.testing import laws_of
from mapsto.torch.drivers.loss import settle

OWN = [e.key for e in registry.entries("loss") if e.origin.startswith("mapsto ")]

LOSSES = [getattr(nn, n) for n in dir(nn) if n.endswith("Loss") and issubclass(getattr(nn, n), nn.modules.loss._Loss)]


def judged(target: Any, law: str, **more: Any) -> Verdict:
    subject = of_target(target, "loss")
    tags = frozenset(more.pop("tags", ()))
    stated = replace(subject.example, tags=tags, more={**subject.example.more, **more})
    return verdict(Trial(replace(subject, example=stated), find_law(law)))


@laws_of(*OWN)
def test_every_registered_loss_keeps_them(law: Callable[[], None]) -> None:
    law()


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")  # KLDivLoss, of its own mean
@pytest.mark.parametrize("target", LOSSES, ids=lambda c: c.__name__)
def test_inputs_of_the_framework_s_losses_are_found_and_their_parts_add_up(target: Any) -> None:
    made = judged(target, "loss.additivity")
    assert made.status == "pass", made.reason
    assert made.reason.startswith("example found")
    assert made.counts["the gradients of the parts"] > 0


@pytest.mark.parametrize("name", ["my_cross_entropy", "label_smoothed_nll", "HuberLoss2", "binary_focal", "triplet_margin"])
def test_names_tell_which_inputs_are_likely(name: str) -> None:
    kinds: dict[str, Callable[..., Any]] = {
        "my_cross_entropy": lambda prediction, target: F.cross_entropy(prediction, target, reduction="none"),
        "label_smoothed_nll": lambda log_p, target: F.nll_loss(log_p, target, reduction="none"),
        "HuberLoss2": lambda prediction, target: F.huber_loss(prediction, target, reduction="none"),
        "binary_focal": lambda logits, target: F.binary_cross_entropy_with_logits(logits, target, reduction="none"),
        "triplet_margin": lambda a, p, n: F.triplet_margin_loss(a, p, n, reduction="none"),
    }
    target = kinds[name]
    target.__name__ = target.__qualname__ = name
    made = judged(target, "loss.permutation")
    assert made.status == "pass", made.reason
    assert made.reason.startswith("example found")


def demanding(prediction: Tensor, target: Tensor) -> Tensor:
    if prediction.shape != (17,):
        raise ValueError("17 numbers are wanted")
    return (prediction - target).sum()


def test_what_cannot_be_found_is_asked_for_with_the_lines_to_write() -> None:
    made = judged(demanding, "loss.additivity")
    assert made.status == "unknown"
    assert "its inputs could not be guessed" in made.reason
    assert "mapsto.example(\n      demanding,\n      inputs=lambda size, generator:" in made.reason


def test_a_mean_of_means_is_told_by_its_ratios() -> None:
    made = judged(nn.MSELoss, "loss.states_weight")
    assert made.status == "fail"
    assert made.witness is not None
    assert "0.9286 and 1.083" in made.reason  # 13 / 14 and 13 / 12: the halves of a mean over parts of 7 and 6
    assert made.witness.measured == pytest.approx(13 / 12 - 1, rel=1e-6)
    assert made.witness.cause is not None
    assert "elements" in made.witness.cause
    assert made.witness.script is not None
    assert "judge_law('torch.nn.modules.loss:MSELoss', 'loss.states_weight'" in made.witness.script


def test_a_mean_with_its_weight_stated_passes_and_a_wrong_one_is_told() -> None:
    assert judged(nn.MSELoss, "loss.states_weight", weight="elements").status == "pass"
    wrong = judged(nn.CrossEntropyLoss, "loss.states_weight", weight="records")
    assert wrong.status == "fail"
    assert wrong.witness is not None
    assert wrong.witness.cause == "it divides by targets"


@pytest.mark.parametrize("target", [nn.MSELoss(reduction="sum"), nn.MSELoss(reduction="none")], ids=["sum", "none"])
def test_instances_keep_their_reduction(target: Any) -> None:
    assert judged(target, "loss.states_weight").status == "pass"
    assert judged(target, "loss.degenerate").status == "pass"
    assert judged(target, "loss.reductions").status == "pass"


class Optional:
    """A mean that ignores targets only where it is told which."""

    def __init__(self, ignore_index: int | None = None) -> None:
        self.ignore_index = ignore_index

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, ignore_index=-1000 if self.ignore_index is None else self.ignore_index)


def test_targets_are_ignored_only_where_the_loss_is_told_to() -> None:
    made = judged(Optional, "loss.states_weight")
    assert made.status == "fail"
    assert made.witness is not None
    assert made.witness.cause == "a mean of means; it divides by targets: say weight='targets'"
    assert judged(Optional, "loss.reductions").status == "pass"


def test_a_mean_over_nothing_is_not_a_number() -> None:
    made = judged(nn.CrossEntropyLoss, "loss.degenerate")
    assert made.status == "fail"
    assert made.witness is not None
    assert made.witness.case["targets"] == "all targets ignored"
    assert made.witness.cause == "0 / 0: a mean over nothing"


def explains(prediction: Tensor, target: Tensor) -> Tensor:
    if not len(target):
        raise ValueError("a batch without records has no loss")
    return (prediction - target).square()


def test_an_explicit_error_is_one_way_to_say_so() -> None:
    made = judged(explains, "loss.degenerate")
    assert made.status == "pass"
    assert made.counts["explicit errors"] == 1


def contrastive(features: Tensor, target: Tensor) -> Tensor:
    alike = (target[:, None] == target[None, :]).to(features.dtype)
    return F.binary_cross_entropy_with_logits(features @ features.T, alike, reduction="none").sum(1)


def test_records_that_depend_on_one_another_are_declared() -> None:
    assert judged(contrastive, "loss.additivity").status == "fail"
    assert judged(contrastive, "loss.additivity", tags={"across_records"}).status == "not applicable"
    assert judged(contrastive, "loss.permutation", tags={"across_records"}).status == "pass"


def nothing(prediction: Tensor, target: Tensor) -> tuple[Tensor, int]:
    return (prediction * 0.0).sum(), len(target)


def test_a_loss_that_is_always_zero_proves_nothing() -> None:
    example(nothing, inputs=lambda size, generator: (torch.randn(size, 3, generator=generator),) * 2)
    made = verdict(Trial(of_target(nothing, "loss"), find_law("loss.additivity")))
    assert made.status == "unknown"
    assert "no gradient was compared" in made.reason


def test_the_laws_of_layers_are_the_same_checks_on_another_kind() -> None:
    shared, own = find_law("layer.layout"), find_law("loss.layout")
    assert own.kinds == ("loss",)
    assert (own.tolerance, own.priority, own.satisfy) == (shared.tolerance, shared.priority, shared.satisfy)
    trial = Trial(of_target(nn.HuberLoss, "loss"), own)
    own.check(trial)
    assert sum(trial.counts.values()) >= 1
    assert trial.subject.kind == "loss"


def test_options_of_an_author_reach_the_loss() -> None:
    subject = of_target(nn.HuberLoss, "loss")
    trial = Trial(replace(subject, example=replace(subject.example, args={"delta": 0.25})), find_law("loss.additivity"))
    assert settle(trial).args == {"delta": 0.25}
    assert isinstance(trial.subject, Subject)
