"""Laws of layers beyond their mutants: examples that are found, what is said where none is, controls, declared tags."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import forked
from tests.mutants import every
from torch import Tensor, nn

from mapsto.check.targets import complete, of_target
from mapsto.core.laws import Example, Subject, Trial, Verdict, all_laws, example, find_law, verdict
from mapsto.processes.forks import ForkServer
from mapsto.testing import laws_of
from mapsto.torch.drivers.layer_examples import discover, settle

UNBUILT = {
    "Container", "DataParallel", "Module", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "RNNBase",
    "RNNCellBase", "TransformerDecoder", "TransformerEncoder",
}  # fmt: skip
"""Of torch.nn: what holds other modules or is no layer by itself."""
LAYERS = [
    c for n, c in sorted(vars(nn).items())
    if inspect.isclass(c) and issubclass(c, nn.Module) and not n.endswith("Loss") and n not in UNBUILT
]  # fmt: skip


def judged(target: Any, law: str, stated: Example | None = None, *, make: Callable[[], Any] | None = None) -> Verdict:
    name = getattr(target, "__name__", type(target).__name__)
    example = stated or Example()
    subject = Subject(kind="layer", label=name, reference="", target=target, example=example, make=make, wing="torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in the checker's workers
        return verdict(Trial(complete(subject), find_law(law)))


def vectors(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return (torch.randn(size, 4, generator=generator),)


# -- examples that are found -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layer", LAYERS, ids=lambda c: c.__name__)
def test_an_example_is_found_for_every_layer_of_the_framework(layer: type[nn.Module]) -> None:
    found = discover(of_target(layer, "layer"))
    assert found.inputs is not None, found.more.get("unfound")
    assert found.dynamic == (1, 2, 3, 7)
    assert found.more["found"].startswith("example found: ")


class TokenModel(nn.Module):
    """Ids and a mask, and names of arguments as people write them."""

    def __init__(self, vocab_size: int, d_model: int, n_heads: int, num_layers: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        layer = nn.TransformerEncoderLayer(d_model, n_heads, 2 * d_model, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.head = nn.Linear(d_model, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(self.embedding(input_ids), src_key_padding_mask=~attention_mask)
        return self.head(hidden.mean(1))


class Stem(nn.Module):
    """Images with three channels that are halved five times: small ones end in nothing."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        widths = [3, 4, 4, 4, 4, out_channels]
        self.body = nn.Sequential(*[nn.Conv2d(a, b, 3, 2) for a, b in itertools.pairwise(widths)])

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))


class CrossAttention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mix = nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, time, dim = query.shape
        assert key.shape == value.shape == (batch, time, dim)
        return (self.mix(query) @ key.transpose(1, 2)).softmax(-1) @ value


class Modulated(nn.Module):
    """An image and a vector."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Linear(channels, channels)

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        assert image.dim() == 4
        return image * self.scale(condition)[:, :, None, None]


class Residual(nn.Module):
    """Sizes in and out have to be equal: the first guess does not fit, the second does."""

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        assert in_features == out_features
        self.inner = nn.Linear(in_features, out_features, bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (TokenModel, "input_ids: ids [size, 5] below 16, attention_mask: bool [size, 5]"),
        (Stem, "x: [size, 3, 64, 64]"),
        (CrossAttention, "query: [size, 5, 8], key: [size, 5, 8], value: [size, 5, 8]"),
        (Modulated, "image: [size, 8, 7, 7], condition: [size, 8]"),
        (Residual, "in_features=8, out_features=8, bias=False"),
    ],
)
def test_common_signatures_are_found(layer: type[nn.Module], said: str) -> None:
    found = discover(of_target(layer, "layer"))
    assert said in found.more.get("found", ""), found.more


def test_a_verdict_says_what_was_found() -> None:
    made = judged(nn.Linear, "layer.purity")
    assert made.status == "pass", made.reason
    assert made.reason == "example found: arguments in_features=8, out_features=6; inputs input: [size, 8]"


def test_stated_inputs_are_kept_and_missing_arguments_found() -> None:
    stated = Example(args={"in_features": 5}, inputs=lambda size, generator: (torch.randn(size, 5, generator=generator),))
    subject = complete(Subject(kind="layer", label="Linear", reference="", target=nn.Linear, example=stated, wing="torch"))
    found = discover(subject)
    assert found.inputs is stated.inputs
    assert found.args == {"in_features": 5, "out_features": 6}


def test_an_instance_is_copied_and_its_inputs_found() -> None:
    made = judged(layer := nn.Linear(3, 2), "layer.state", make=lambda: __import__("copy").deepcopy(layer))
    assert made.status in ("pass", "vacuous"), made.reason  # copies of one instance hold the same state already
    assert made.counts["a fresh instance with its state"] > 0


def test_finding_leaves_the_random_stream_as_it_was() -> None:
    before = torch.get_rng_state()
    discover(of_target(TokenModel, "layer"))
    assert torch.equal(before, torch.get_rng_state())


# -- where none is found -----------------------------------------------------------------------------------------------
class Configured(nn.Module):
    """What no name tells."""

    def __init__(self, plan: dict[str, int], dim: int) -> None:
        super().__init__()
        self.inner = nn.Linear(plan["in"], dim)

    def forward(self, graph: Tensor, edges: Tensor) -> Tensor:
        return self.inner(graph)


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == (13, 17)
        return x


def test_an_unknown_argument_is_named_with_the_lines_to_write() -> None:
    made = judged(Configured, "layer.gradients")
    assert made.status == "unknown"
    assert "its argument `plan: dict[str, int]` could not be guessed" in made.reason
    assert "mapsto.example(\n      Configured,\n      args={'plan': ..., 'dim': ...}," in made.reason
    assert "# graph, edges" in made.reason


def test_unknown_inputs_are_asked_for() -> None:
    made = judged(Odd, "layer.purity")
    assert made.status == "unknown"
    assert "its inputs could not be guessed" in made.reason
    assert "inputs=lambda size, generator: (torch.randn(size, 8, generator=generator),),  # x" in made.reason


def test_what_it_says_to_write_is_what_it_takes() -> None:
    stated = Example(inputs=lambda size, generator: (torch.randn(size, 13, 17, generator=generator),))
    assert judged(Odd, "layer.purity", stated).status == "pass"


def test_a_factory_that_makes_no_module_is_unknown() -> None:
    made = judged(lambda: 3, "layer.purity", Example(inputs=vectors))
    assert made.status == "unknown"
    assert "made a int, and an nn.Module is wanted" in made.reason


# -- precision, controls, tags -----------------------------------------------------------------------------------------
class SingleOnly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError("float32 only")
        return x * 2


def test_a_layer_for_float32_alone_has_to_say_so() -> None:
    made = judged(SingleOnly, "layer.gradients", Example(inputs=vectors))
    assert made.status == "unknown"
    assert "tags={'single_precision'}" in made.reason
    declared = judged(SingleOnly, "layer.gradients", Example(inputs=vectors, tags=frozenset({"single_precision"})))
    assert declared.status == "not applicable"


class Deaf(nn.Module):
    """Gives the same whatever it is given: every equality holds, and none of them means anything."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(x.shape[0], 2, dtype=x.dtype) + 0 * x.sum()


@pytest.mark.parametrize("law", ["layer.layout", "layer.rerun", "layer.checkpointing"])
def test_an_equality_that_nothing_could_break_is_vacuous(law: str) -> None:
    made = judged(Deaf, law, Example(inputs=vectors))
    assert made.status == "vacuous", (made.status, made.reason)


@pytest.mark.parametrize(
    ("law", "tag"), [("row_independence", "row_independent"), ("mask_independence", "masked"), ("causality", "causal")]
)
def test_dependence_is_judged_only_where_independence_is_declared(law: str, tag: str) -> None:
    made = judged(nn.Linear, f"layer.{law}")
    assert made.status == "not applicable"
    assert f"`{tag}`" in made.reason


def test_a_mask_without_its_place_is_asked_for() -> None:
    made = judged(nn.Linear, "layer.mask_independence", Example(tags=frozenset({"masked"})))
    assert made.status == "unknown"
    assert "mask=1, mask_keeps=True" in made.reason


class WritesIntoInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu_()


def test_writing_into_inputs_is_allowed_where_declared() -> None:
    assert judged(WritesIntoInput, "layer.purity", Example(inputs=vectors)).status == "fail"
    declared = Example(inputs=vectors, tags=frozenset({"in_place"}))
    for law in ("layer.purity", "layer.gradients", "layer.compile"):
        assert judged(WritesIntoInput, law, declared).status == "pass", law


def test_a_known_finding_is_found_again() -> None:
    made = judged(nn.RReLU, "layer.checkpointing")
    assert made.status == "fail"
    assert made.witness is not None
    assert "saved for backward and written afterwards" in (made.witness.cause or "")


# -- the whole ---------------------------------------------------------------------------------------------------------
class Small(nn.Module):
    """A small correct layer."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(self.norm(x)).tanh()


example(Small, args={"dim": 4}, inputs=vectors, tags=["row_independent", "twice_differentiable"], saved_bytes=100_000)


@laws_of(Small, kind="layer", thorough=False)
def test_a_correct_layer_keeps_every_law(law: Callable[[], None]) -> None:
    law()


def test_every_law_of_layers_has_a_mutant() -> None:
    covered = {m.law for mutants in every().values() for m in mutants}
    rooms = ("mapsto.torch.laws.layer", "mapsto.laws.layer")
    owed = {law.name for law in all_laws().values() if law.check.__module__.startswith(rooms)}
    assert len(owed) >= 24
    assert owed <= covered, owed - covered


def test_the_script_of_a_witness_reproduces_it(loaded: ForkServer, tmp_path: Path) -> None:
    subject = of_target(nn.RReLU, "layer")
    made = verdict(Trial(subject, find_law("layer.checkpointing")))
    assert made.witness is not None
    script = tmp_path / "again.py"
    script.write_text(made.witness.script or "")
    done = forked.run(loaded, script)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "fail: law layer.checkpointing" in said
    assert "saved for backward and written afterwards" in said


def test_settling_is_done_once() -> None:
    trial = Trial(of_target(nn.Linear, "layer"), find_law("layer.purity"))
    assert settle(trial) is settle(trial)
