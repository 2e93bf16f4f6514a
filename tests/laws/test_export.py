"""Laws of exports: what is asked of an author, what does not concern a component, and layers as what is exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.mutants import export as planted
from torch import nn

import mapsto
from mapsto.check.targets import complete
from mapsto.core.laws import Example, Subject, Trial, find_law, verdict
from mapsto.testing import laws_of
from mapsto.torch.drivers.export_process import NotRun, run_elsewhere


@laws_of("export/torch_export")
def test_our_own_keep_them(law):
    law()


def judged(target, law, kind="export", **fields):
    label, example = f"here:{target.__name__}", Example(**fields)
    subject = Subject(kind=kind, label=label, reference="", target=target, example=example, wing="torch")
    return verdict(Trial(complete(subject), find_law(law)))


def a_dict(model, *, inputs):
    return dict(model.state_dict())


def test_an_artefact_of_an_unknown_sort_asks_for_load():
    made = judged(a_dict, "export.fresh_inputs")
    assert made.status == "unknown"
    assert "mapsto.example(a_dict, load=load)" in made.reason


def test_another_process_needs_a_function_that_it_can_import():
    made = judged(planted.own_format, "export.without_source", more={"load": lambda path: planted.opened(path)})
    assert made.status == "unknown"
    assert "`load` must be a function of a module" in made.reason


def test_an_artefact_in_memory_has_to_be_declared():
    made = judged(planted.in_memory, "export.without_source")
    assert made.status == "unknown"
    assert "tags={'in_memory'}" in made.reason
    assert judged(planted.in_memory, "export.without_source", tags=frozenset({"in_memory"})).status == "not applicable"
    assert judged(planted.in_memory, "export.dynamic_range", tags=frozenset({"static"})).status == "not applicable"


def test_a_layer_may_declare_that_it_is_not_exported():
    made = judged(nn.Linear, "export.fresh_inputs", "layer", tags=frozenset({"eager_only"}))
    assert made.status == "not applicable"


def test_without_onnx_the_law_says_what_to_install(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    made = judged(nn.Linear, "layer.onnx", "layer")
    assert made.status == "not applicable"
    assert "pip install 'mapsto[onnx]'" in made.reason


class Constant(nn.Module):
    """Gives the same whatever it is given: no comparison on fresh inputs means anything."""

    def forward(self, x):
        return torch.ones_like(x)


def test_a_result_that_nothing_changes_is_vacuous():
    inputs = Example(inputs=lambda size, generator: (torch.randn(size, 4, generator=generator),)).inputs
    made = judged(Constant, "export.fresh_inputs", "layer", inputs=inputs)
    assert made.status == "vacuous"
    assert made.reason == "the control did not differ: other inputs give another result"


def test_an_operator_of_a_package_that_serving_imports_is_no_missing_source():
    inputs = planted.VECTORS.inputs
    without = judged(planted.OwnOperator, "export.without_source", "layer", inputs=inputs)
    assert without.status == "fail"
    assert "in a fresh process without tests" in without.reason


def test_the_other_process_tells_why_it_ended(tmp_path: Path):
    path = tmp_path / "none.pt2"
    with pytest.raises(NotRun, match="none.pt2"):
        run_elsewhere([(path, [(torch.ones(2),)])])


def test_spec_of_the_example_is_read():
    assert mapsto.registry.get("export", "torch_export") is not None
    assert planted.torch_export is mapsto.registry.get("export", "torch_export")
