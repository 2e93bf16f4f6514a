"""Exports: the artefact is the model, the model is left as it was, and every misuse is one clear error."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from mapsto.core.errors import ExportError, MissingExtra
from mapsto.torch.export import onnx, onnx_session, torch_export


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, x):
        return self.body(x)


class Many(nn.Module):
    def forward(self, x, *rest, scale=1.0):
        return {"sum": x + sum(rest), "first": x * scale}


class Asks(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Fixed(nn.Module):
    def forward(self, x):
        return x + torch.zeros(3, 1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = Net().train()
    made.body[1].eval()
    made(torch.randn(8, 4)).sum().backward()
    return made


def modes(model):
    return [part.training for part in model.modules()]


def test_the_program_is_the_model_in_evaluation(model, tmp_path):
    before, gradient = modes(model), model.body[0].weight.grad.clone()
    path = torch_export(model, inputs=torch.randn(6, 4), path=tmp_path / "deep" / "net.pt2")
    assert modes(model) == before
    assert torch.equal(model.body[0].weight.grad, gradient)
    assert [p.name for p in path.parent.iterdir()] == ["net.pt2"]
    call, x = torch.export.load(path).module(), torch.randn(3, 4)
    assert torch.equal(call(x), model.eval()(x))
    assert not torch.equal(call(x), model.train()(x))


def test_further_inputs_and_nested_outputs(tmp_path):
    path = torch_export(Many(), inputs=(torch.ones(4, 2), torch.ones(4, 2), torch.ones(4, 2)), path=tmp_path / "many.pt2")
    got = torch.export.load(path).module()(torch.ones(7, 2), torch.ones(7, 2), torch.ones(7, 2))
    assert torch.equal(got["sum"], torch.full((7, 2), 3.0))


def test_sizes_as_in_the_example_and_sizes_of_ones_own(model, tmp_path):
    fixed = torch_export(model, inputs=torch.randn(1, 4), path=tmp_path / "fixed.pt2", dynamic=False)
    with pytest.raises(AssertionError, match="size"):
        torch.export.load(fixed).module()(torch.randn(2, 4))
    shapes = ({0: torch.export.Dim("batch", max=9)},)
    ranged = torch.export.load(torch_export(model, inputs=torch.randn(3, 4), path=tmp_path / "ranged.pt2", dynamic=shapes))
    assert ranged.module()(torch.randn(9, 4)).shape == (9, 2)
    with pytest.raises(AssertionError, match="9"):
        ranged.module()(torch.randn(10, 4))


@pytest.mark.parametrize(
    ("mapped", "options", "said"),
    [
        (lambda x: x, {"inputs": torch.ones(2, 4)}, "it maps a torch.nn.Module, not a function"),
        (Net(), {"inputs": {"x": torch.ones(2, 4)}}, "`inputs` is a dict; allowed: a tuple"),
        (Net(), {"inputs": torch.ones(2, 4), "path": "net.pt"}, "must end in '.pt2'"),
        (Net(), {"inputs": torch.ones(1, 4)}, "give an example with 2 records or more, or dynamic=False"),
        (Net(), {"inputs": torch.ones(2, 5)}, "the model does not take the example inputs: RuntimeError"),
        (Asks(), {"inputs": torch.ones(2, 5)}, "use torch.where or torch.cond"),
        (Fixed(), {"inputs": torch.ones(3, 5)}, "read sizes from x.shape, or dynamic=False"),
    ],
)
def test_misuse_is_one_clear_error_and_leaves_nothing(mapped, options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = modes(mapped) if isinstance(mapped, nn.Module) else None
    with pytest.raises(ExportError) as raised:
        torch_export(mapped, **options)
    assert said in str(raised.value)
    assert list(tmp_path.iterdir()) == []
    assert before is None or modes(mapped) == before


def test_an_artefact_that_computes_something_else_is_not_given_its_name(model, tmp_path, monkeypatch):
    load = torch.export.load

    def other(path):
        program = load(path)
        with torch.no_grad():
            program.state_dict["body.3.bias"].add_(1)
        return program

    monkeypatch.setattr(torch.export, "load", other)
    with pytest.raises(ExportError, match="does not compute what the model does: output 0 is 1 off, 0 is allowed"):
        torch_export(model, inputs=torch.randn(6, 4), path=tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []
    assert torch_export(model, inputs=torch.randn(6, 4), path=tmp_path / "net.pt2", check=False).exists()


def test_without_the_extra_onnx_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mapsto\[onnx\]'"):
        onnx(model, inputs=torch.ones(2, 4))


def test_onnx_is_the_model_within_rounding_at_any_size(model, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    path = onnx(model, inputs=torch.randn(6, 4), path=tmp_path / "net.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    call = onnx_session(path)
    for size in (1, 2, 33):
        x = torch.randn(size, 4)
        torch.testing.assert_close(call(x)[0], model.eval()(x).detach(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ExportError, match=r"must end in '\.onnx'"):
        onnx(model, inputs=torch.randn(6, 4), path=tmp_path / "net.pt2")
