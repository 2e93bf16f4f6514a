"""Our own metrics keep the laws of their kind; a task's predictions are what they read."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import pytest

from mapsto.core.registry import registry
from mapsto.testing import judge_law, laws_of

NAMES = [e.name for e in registry.entries() if e.kind == "metric" and e.origin.startswith("mapsto ")]
TEXTS = ("bleu", "chrf")


@laws_of(*(f"metric/{name}" for name in NAMES if name not in TEXTS))
def test_our_metrics_keep_their_laws(law: Callable[[], None]) -> None:
    law()


@pytest.mark.skipif(find_spec("sacrebleu") is None, reason="sacrebleu is not installed")
@laws_of(*(f"metric/{name}" for name in TEXTS))
def test_metrics_of_texts_keep_their_laws(law: Callable[[], None]) -> None:
    law()


def test_a_function_and_a_metric_of_torchmetrics_are_not_judged_as_statistics() -> None:
    def share(outputs: object, target: object) -> tuple[int, int]:
        return 1, 1

    verdict = judge_law(share, "metric.additivity", kind="metric")
    assert verdict.status == "not applicable"
    assert judge_law("torchmetrics.classification:BinaryAccuracy", "metric.purity", kind="metric").status == "not applicable"
