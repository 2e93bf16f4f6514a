"""A program of turns is the loop that one writes by hand, goes on bitwise from any step, and says what does not fit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.torch import gans
from tests.torch.gans import TURNS, Gan, by_hand, gan, train, turns
from torch import Tensor

from mapsto import Run, Spec, use
from mapsto.cli.show import show_spec
from mapsto.core.errors import CheckpointError, ComposeError, SpecError
from mapsto.torch import build_program
from mapsto.torch.probe import probe

STEPS = 12


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(v, other[k]) for k, v in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# -- the loop by hand --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("every", "times"), [(1, 1), (3, 1), (2, 2)])
def test_weights_and_averages_are_bitwise_those_of_the_loop_by_hand(every: int, times: int) -> None:
    program = gan(turns=turns(generator={"every": every}, discriminator={"times": times}))
    model = copy.deepcopy(program.model)
    train(program, 0, STEPS)
    averages = by_hand(model, STEPS, every=every, times=times)
    assert same(dict(program.model.state_dict()), dict(model.state_dict()))
    assert same(program.middleware["generator.ema"].averages, averages)


@pytest.mark.parametrize("bug", ["shared", "kept"])
def test_a_loop_with_a_usual_mistake_ends_elsewhere(bug: str) -> None:
    program = gan()
    model = copy.deepcopy(program.model)
    train(program, 0, STEPS)
    by_hand(model, STEPS, bug=bug)
    assert not same(dict(program.model.state_dict()), dict(model.state_dict()))


def test_a_task_that_detaches_nothing_moves_only_what_its_turn_owns() -> None:
    careful, careless = gan(), gan(turns=turns(discriminator={"task": gans.careless}))
    train(careful, 0, STEPS)
    train(careless, 0, STEPS)
    assert same(dict(careful.model.state_dict()), dict(careless.model.state_dict()))


def test_gradients_of_a_turn_stay_for_who_looks_after_the_step() -> None:
    program = gan()
    train(program, 0, 1)
    assert all(p.grad is not None for p in program.model.parameters())


def test_accumulated_turns_are_those_of_the_whole_batch() -> None:
    cut = {name: {"middleware": [*turn["middleware"], use("accumulate", steps=4)]} for name, turn in TURNS.items()}
    whole, parts = gan(), gan(turns=turns(**cut))
    for found, wanted in zip(train(parts, 0, STEPS), train(whole, 0, STEPS), strict=True):
        assert parts.fetch([found]) == pytest.approx(whole.fetch([wanted]), rel=1e-12)
    for found, wanted in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-12)


def test_two_turns_may_share_parameters_that_both_say_are_shared() -> None:
    both = {name: {"parameters": ["*"], "shared": True} for name in TURNS}
    program = gan(turns=turns(**both))
    before = copy.deepcopy(program.model.state_dict())
    train(program, 0, 2)
    assert all(not torch.equal(v, before[n]) for n, v in program.model.state_dict().items())
    assert len(program.state.parameters) == len(list(program.model.parameters()))


def test_turns_without_parts_of_their_own_take_the_programs() -> None:
    given = {name: {"parameters": [name]} for name in ("generator", "discriminator")}
    one = build_program(Gan, gans.fool, use("sgd", lr=0.1), turns=given, seed=3, device="cpu")
    batch = {n: torch.from_numpy(v) for n, v in gans.records("float32").items()}
    wanted = build_program(Gan, gans.fool, use("sgd", lr=0.1), seed=3, device="cpu")
    one.turns.pop("discriminator")
    one.step(batch)
    wanted.step(batch)
    assert torch.equal(one.model.generator[0].weight, wanted.model.generator[0].weight)
    assert not torch.equal(one.model.discriminator[0].weight, wanted.model.discriminator[0].weight)


# -- what is told of it ------------------------------------------------------------------------------------------------
def test_metrics_and_rates_have_the_names_of_turns() -> None:
    program = gan(turns=turns(discriminator={"times": 2}, generator={"every": 2}))
    first, second = (program.fetch([found]) for found in train(program, 0, 2))
    assert set(first) == {"discriminator/loss", "discriminator/grad_norm"}
    assert set(second) == {*first, "generator/loss"}
    assert program.rates() == {"discriminator/lr": 0.01, "generator/lr": 0.01}  # four updates, of which three end a period
    assert [turn.state.step for turn in program.turns.values()] == [4, 1]
    assert program.summary()["optimizer"] == "discriminator: Adam, generator: RMSprop"


def test_a_schedule_is_told_the_length_of_its_own_turn() -> None:
    half = turns(generator={"every": 2, "schedule": use("warmup", decay="linear")}, discriminator={"times": 3})
    program = gan(turns=half)
    train(program, 0, 10)
    assert program.rates()["generator/lr"] == pytest.approx(0.01 * (1 - 5 / 10))


def test_evaluation_is_by_the_programs_task_with_averaged_weights() -> None:
    program = gan()
    train(program, 0, STEPS)
    batch = {n: torch.from_numpy(v) for n, v in gans.records().items()}
    averaged = copy.deepcopy(program.model)
    averaged.load_state_dict({**averaged.state_dict(), **program.middleware["generator.ema"].averages})
    assert program.evaluate([batch])["loss"] == gans.distance(averaged, batch)[0].item() / gans.RECORDS
    with pytest.raises(SpecError, match="evaluated by a task of its own"):
        gan(task=None).evaluate([batch])


# -- going on ----------------------------------------------------------------------------------------------------------
RANDOM = turns(
    generator={"task": gans.drawn, "every": 2}, discriminator={"times": 2, "middleware": [use("gradient_noise", eta=0.1)]}
)


def test_a_program_goes_on_bitwise_from_every_step() -> None:
    whole = gan(turns=RANDOM)
    trees = [copy.deepcopy(whole.state_tree())]
    for step in range(STEPS):
        train(whole, step, step + 1)
        trees.append(copy.deepcopy(whole.state_tree()))
    assert not same(trees[1]["model"], trees[0]["model"])
    for step, tree in enumerate(trees):
        found = gan(turns=RANDOM)
        found.restore(tree)
        assert same(found.state_tree(), tree), step
        train(found, step, STEPS)
        assert same(found.state_tree(), trees[-1]), step


def test_what_does_not_fit_is_said_before_anything_is_changed() -> None:
    program = gan()
    tree = copy.deepcopy(program.state_tree())
    other = gan(turns=turns(generator={"middleware": []}))
    with pytest.raises(CheckpointError, match=r"middleware: .*unexpected: generator\.ema"):
        other.restore(tree)
    with pytest.raises(CheckpointError, match="unexpected: turns"):
        build_program(Gan, gans.fool, seed=3, device="cpu").restore(tree)
    wrong = {**tree, "optimizer": {**tree["optimizer"], "generator": {**tree["optimizer"]["generator"], "names": []}}}
    train(program, 0, 1)
    before = copy.deepcopy(program.state_tree())
    with pytest.raises(CheckpointError, match="optimizer parameter"):
        program.restore(wrong)
    assert same(program.state_tree(), before)


def spec(**changes: Any) -> Spec:
    reader = {"use": "tests.torch.gans:reader", "dtype": "float32"}
    fields = {"model": Gan, "task": gans.distance, "turns": RANDOM, "data": {"train": reader, "valid": reader}, "steps": 9}
    return Spec(**{**fields, "seed": 3, "device": "cpu", "log_every": 2, **changes})


def test_a_run_that_stops_at_any_step_ends_as_the_one_that_did_not(tmp_path: Path) -> None:
    plan = {"every": 1, "keep": None, "best": 0}
    whole = Run(spec(checkpoint=plan), tmp_path / "whole")
    result = whole.fit()
    assert set(result.metrics) >= {"train/discriminator/loss", "train/generator/loss", "valid/loss"}
    for step in (1, 2, 4, 7):  # in the midst of an epoch, at its end, before and after a turn of the generator
        stopped = Run(spec(checkpoint=plan), tmp_path / f"run-{step}", observers=[Stops(step)])
        stopped.fit()
        assert stopped.program.position == step
        again = Run.resume(tmp_path / f"run-{step}")
        again.fit()
        assert same(again.program.state_tree(), whole.program.state_tree()), step


class Stops:
    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, event: Any) -> None:
        if event.step == self.step:
            event.run.ask_to_stop("as was asked")


# -- specs -------------------------------------------------------------------------------------------------------------
def test_a_spec_of_turns_goes_through_yaml_and_overrides() -> None:
    made = spec()
    back = Spec.from_yaml(made.to_yaml()).check()
    assert back.to_data() == made.to_data()
    changed = made.override("turns.generator.optimizer.lr=0.5", "turns.generator.every=4", "turns.discriminator.middleware=[]")
    assert changed.turns["generator"]["optimizer"].args["lr"] == 0.5
    assert changed.turns["generator"]["every"] == 4
    assert changed.turns["discriminator"]["middleware"] == ()
    assert made.identity() != changed.identity()
    assert "turns" not in spec(turns=None).identity()


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unclaimed": ({"turns": {"g": TURNS["generator"]}}, SpecError, "no turn trains discriminator.0.weight, .* and 1 more"),
    "claimed twice": (
        {"turns": turns(generator={"parameters": ["generator", "discriminator.2"]})},
        SpecError,
        r"turns.discriminator.parameters and turns.generator.parameters both match 'discriminator.2.weight'.* shared: true",
    ),
    "misspelt": (
        {"turns": turns(generator={"parameters": ["generatr"]})},
        SpecError,
        "turns.generator.parameters: .*'generatr'",
    ),
    "unknown key": ({"turns": turns(generator={"evry": 2})}, SpecError, "turns.generator.evry: unknown key; .*every"),
    "never": ({"turns": turns(generator={"every": 0})}, SpecError, "turns.generator.every"),
    "no mapping": ({"turns": ["generator"]}, SpecError, "turns: a mapping of turns by name"),
    "no parameters": ({"turns": {"g": {"task": gans.fool}}}, SpecError, "turns.g.parameters: missing"),
    "no name": ({"turns": {"g/d": TURNS["generator"]}}, SpecError, "'g/d' names no turn"),
    "outside": (
        {"middleware": [use("clip_norm", max_norm=1.0)]},
        ComposeError,
        r"'clip_norm' wraps update, which each turn has for itself: say it in turns.NAME.middleware",
    ),
    "bad option": (
        {"turns": turns(generator={"optimizer": use("sgd", lr=-1)})},
        SpecError,
        "turns.generator.optimizer.lr",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_sentence(name: str) -> None:
    changes, kind, said = WRONG[name]
    with pytest.raises(kind, match=said):
        gan(**changes)


def test_a_spec_whose_data_nothing_evaluates_is_refused_before_a_step() -> None:
    with pytest.raises(SpecError, match="task: null; data are to be evaluated"):
        spec(task=None).check()
    taskless = {name: {**turn, "task": None} for name, turn in TURNS.items()}
    with pytest.raises(SpecError, match=r"turns\.discriminator\.task: missing"):
        Spec(model=Gan, data={"train": spec().data["train"]}, turns=taskless).check()


def test_a_program_of_turns_has_no_gradient_of_its_own() -> None:
    with pytest.raises(SpecError, match=r"takes turns \(discriminator, generator\)"):
        gan().grad(gan().state, {})


def test_show_tells_when_each_turn_comes_and_what_wraps_it(capsys: pytest.CaptureFixture[str]) -> None:
    show_spec(spec().check())
    said = capsys.readouterr().out
    assert "turn discriminator: 2 updates of discriminator at each step" in said
    assert "turn generator: one update of generator at every 2 steps" in said
    assert "update = ema( optimizer )" in said
    assert "turns.generator.optimizer" in said


def test_two_programs_of_turns_are_compared_step_by_step() -> None:
    seen = probe(gan(), gans.reader().batch(0))
    assert {key[1] for key in seen if key[0] == "the loss"} == {"train/discriminator/loss", "train/generator/loss"}
    assert {key[1] for key in seen if key[0] == "a gradient"} == {n for n, _ in Gan().named_parameters()}
