"""Middleware that changes how a model runs or what of it is trained: recomputation, compilation, freezing, groups."""

from __future__ import annotations

import copy

import pytest
import torch
from programs import Net, batch, differing, program, run, same_weights, snapshot
from torch import nn

from mapsto import SpecError, use
from mapsto.torch import build_program


# -- activation checkpointing ------------------------------------------------------------------------------------------
@pytest.mark.bits
@pytest.mark.parametrize("modules", [["blocks.*"], ["blocks.?"], ["embed", "head"], ["blocks.0", "blocks.1.0"]])
def test_recomputing_is_bitwise_the_plain_step_dropout_and_statistics_included(modules):
    bare, made = program(), program(use("activation_checkpointing", modules=modules))
    run(bare, 4), run(made, 4)
    assert not differing(snapshot(bare), snapshot(made))


def calls_of(made, module="blocks.0.0"):
    calls = []
    handle = made.model.get_submodule(module).register_forward_hook(lambda *_: calls.append(1))
    made.step(batch(0))
    trained = len(calls)
    made.evaluate([batch(0)])
    handle.remove()
    return trained, len(calls) - trained


def test_a_match_is_computed_again_once_and_only_in_training():
    assert calls_of(program()) == (1, 1)
    assert calls_of(program(use("activation_checkpointing", modules=["blocks.*"]))) == (2, 1)
    assert calls_of(program(use("activation_checkpointing", modules=["blocks.1"]))) == (1, 1)


def test_names_and_copies_survive_recomputing():
    bare, made = program(), program(use("activation_checkpointing", modules=["blocks.*"]))
    assert list(bare.state_tree()["model"]) == list(made.state_tree()["model"])
    twin = copy.deepcopy(made.model)
    with torch.no_grad():
        for p in made.model.parameters():
            p.zero_()
    assert twin(batch(0)["input"]).abs().sum() > 0, "a copy calls its own weights"


# -- compilation -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options", [{"backend": "eager"}, {"backend": "aot_eager"}, {"backend": "eager", "modules": ["blocks.*"]}]
)
def test_compiled_programs_train_with_the_same_names(options):
    bare, made = program(model=lambda: Net(dropout=0.0)), program(use("compile", **options), model=lambda: Net(dropout=0.0))
    assert list(bare.state_tree()["model"]) == list(made.state_tree()["model"])
    run(bare, 2), run(made, 2)
    for one, two in zip(bare.model.parameters(), made.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    compiled = [m for m in made.model.modules() if m._compiled_call_impl is not None]
    assert len(compiled) == (2 if "modules" in options else 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_inductor_compiles_the_default_way():
    net, sgd = (lambda: Net(dropout=0.0)), use("sgd", lr=0.1)  # Adam would amplify the last bits of gradients that are 0
    bare, made = program(model=net, optimizer=sgd), program(use("compile"), model=net, optimizer=sgd)
    run(bare, 3), run(made, 3)
    for one, two in zip(bare.model.parameters(), made.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


# -- freezing ----------------------------------------------------------------------------------------------------------
def test_what_is_frozen_stays_bitwise_and_the_rest_moves():
    made = program(use("freeze", patterns=["embed", "blocks.0.*"]))
    start = snapshot(made)["model"]
    run(made, 3)
    moved = {n.rpartition(".")[0] for n, v in snapshot(made)["model"].items() if differing(v, start[n])}
    assert moved == {"blocks.1.0", "blocks.1.1", "head"}
    assert not [n for n in made.state.names if n.startswith(("embed", "blocks.0"))]
    assert made.summary()["trainable"] < made.summary()["parameters"]


@pytest.mark.parametrize("statistics", [True, False])
def test_statistics_of_frozen_norms(statistics):
    made = program(use("freeze", patterns=["blocks.0"], statistics=statistics))
    start = snapshot(made)["model"]
    made.model.train()  # as in one's own loop
    run(made, 2)
    made.evaluate([batch(5)])
    run(made, 1)
    moved = bool(differing(snapshot(made)["model"]["blocks.0.1.running_mean"], start["blocks.0.1.running_mean"]))
    assert moved != statistics
    assert differing(snapshot(made)["model"]["blocks.1.1.running_mean"], start["blocks.1.1.running_mean"])
    assert made.model.blocks[0][3].training, "dropout within the frozen part goes on"
    assert copy.deepcopy(made.model).train().blocks[0][1].training != statistics


def test_a_norm_of_which_only_a_part_is_frozen_keeps_learning():
    made = program(use("freeze", patterns=["blocks.0.1.bias"]))
    assert made.model.blocks[0][1].training


# -- groups ------------------------------------------------------------------------------------------------------------
RULES = [{"match": ["head.*"], "lr": 0.1, "weight_decay": 0.0}, {"match": ["embed"], "lr": 1e-3}]


def test_groups_equal_separate_optimizers():
    made = program(use("param_groups", rules=RULES), optimizer=use("adamw", lr=1e-2, weight_decay=0.3))
    twin = program(optimizer=use("sgd", lr=0.0))
    named = dict(twin.model.named_parameters())
    head = [p for n, p in named.items() if n.startswith("head.")]
    embed = [p for n, p in named.items() if n.startswith("embed.")]
    rest = [p for n, p in named.items() if not n.startswith(("head.", "embed."))]
    optimizers = [
        torch.optim.AdamW(head, lr=0.1, weight_decay=0.0, fused=True),
        torch.optim.AdamW(embed, lr=1e-3, weight_decay=0.3, fused=True),
        torch.optim.AdamW(rest, lr=1e-2, weight_decay=0.3, fused=True),
    ]
    for step in range(3):
        run(made, 1)
        twin.step(batch(step))  # lr 0: leaves the gradients
        for optimizer in optimizers:
            optimizer.step()
    assert same_weights(made, twin)
    assert sorted(made.rates().values()) == [1e-3, 1e-2, 0.1]


def test_each_option_comes_from_the_first_rule_that_states_it():
    rules = [{"match": ["*.bias"], "weight_decay": 0.0}, {"match": ["head.*"], "lr": 0.1, "weight_decay": 0.5}]
    made = program(use("param_groups", rules=rules), "no_weight_decay", optimizer=use("adamw", lr=1e-2, weight_decay=0.3))
    options = {}
    for group in made.optimizer.param_groups:
        for p in group["params"]:
            name = next(n for n, q in made.model.named_parameters() if q is p)
            options[name] = (group["lr"], group["weight_decay"])
    assert options["head.bias"] == (0.1, 0.0)
    assert options["head.weight"] == (0.1, 0.5)
    assert options["blocks.0.1.weight"] == (1e-2, 0.0), "the scale of a norm"
    assert options["embed.weight"] == (1e-2, 0.3)
    assert set(options) == {n for n, _ in made.model.named_parameters()}


def test_no_weight_decay_spares_embeddings_unless_told():
    def net():
        return nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))

    def decayed(**options):
        made = build_program(
            net, middleware=[use("no_weight_decay", **options)], optimizer=use("adamw", weight_decay=0.1), device="cpu"
        )
        held = {id(p) for g in made.optimizer.param_groups if g["weight_decay"] for p in g["params"]}
        return {n for n, p in made.model.named_parameters() if id(p) in held}

    assert decayed() == {"2.weight"}
    assert decayed(embeddings=False) == {"0.weight", "2.weight"}


def test_an_optimizer_without_weight_decay_refuses_it():
    with pytest.raises(SpecError, match="Rprop has no option 'weight_decay'"):
        program("no_weight_decay", optimizer=torch.optim.Rprop)


def test_groups_resume_by_name():
    made = program(use("param_groups", rules=RULES))
    run(made, 2)
    tree = snapshot(made)
    assert {n for g in tree["optimizer"]["groups"] if g["lr"] == 0.1 for n in g["params"]} == {"head.weight", "head.bias"}
