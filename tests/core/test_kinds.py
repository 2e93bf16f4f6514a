from __future__ import annotations

import pytest

from mapsto.core.errors import RegistryError, UnknownName
from mapsto.core.kinds import KINDS, Kind, add_kind, kind_of, plural
from mapsto.core.registry import registry


@pytest.mark.parametrize(
    ("name", "several"), [("loss", "losses"), ("source", "sources"), ("mesh", "meshes"), ("task", "tasks"), ("layer", "layers")]
)
def test_plural(name: str, several: str) -> None:
    assert plural(name) == several == KINDS[name].plural


def test_a_function_of_an_applied_kind_is_the_mapping_and_a_class_makes_one() -> None:
    class Made:
        pass

    loss, optimizer, model = KINDS["loss"], registry.kind("optimizer", "torch"), KINDS["model"]
    assert loss.is_mapping(max)
    assert not loss.is_mapping(Made)
    assert not optimizer.is_mapping(max)
    assert not model.is_mapping(max)
    assert loss.supplied(lambda prediction, target, gamma: 0) == ("prediction", "target")
    assert loss.supplied(Made) == ()
    assert optimizer.supplied(Made) == optimizer.supplied(max) == ("params",)


def test_rejects_what_cannot_be_called() -> None:
    assert KINDS["model"].reject(3) == "is a int, which cannot be called"


def test_rejects_a_class_without_the_methods() -> None:
    class Nothing:
        pass

    class Wraps:
        def update(self, inner: object) -> object:
            return inner

    class Inherits(Wraps):
        pass

    assert KINDS["transform"].reject(Nothing) == "defines no method __call__"
    assert str(KINDS["middleware"].reject(Nothing)).startswith("defines none of the methods loss, grad, update, step")
    assert KINDS["middleware"].reject(Wraps) is None
    assert KINDS["middleware"].reject(Inherits) is None


def test_rejects_too_few_positional_arguments() -> None:
    loss = KINDS["loss"]
    assert loss.reject(lambda prediction: 0) == "takes 1 positional argument(s) where a loss is given prediction, target"
    assert loss.reject(lambda prediction, target, *, gamma=1: 0) is None
    assert loss.reject(lambda *everything: 0) is None
    assert registry.kind("optimizer", "torch").reject(lambda *, params: 0) is not None
    assert KINDS["optimizer"].reject(lambda *, rate: 0) is None  # what an optimizer is given, its wing says


def test_accepts_a_callable_that_does_not_tell_its_signature() -> None:
    assert KINDS["optimizer"].reject(range) is None
    assert KINDS["source"].reject(range) is None


def test_add_kind() -> None:
    kind = Kind(name="tokenizer", signature="text -> ids", summary="cuts text")
    assert add_kind(kind) is kind
    assert add_kind(kind) is kind_of("tokenizer")
    with pytest.raises(RegistryError, match=r"kind 'tokenizer' is already declared: text -> ids"):
        add_kind(Kind(name="tokenizer", signature="bytes -> ids", summary="cuts bytes"))
    with pytest.raises(RegistryError, match=r"a kind is declared by a mapsto.Kind, not by a str"):
        add_kind("tokenizer")  # type: ignore[arg-type]


def test_unknown_kind_lists_what_exists_and_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"there is no kind 'optimiser'; allowed: .*task.*; did you mean 'optimizer'\?"):
        kind_of("optimiser")
