"""What every middleware owes: no change when neutral, a bitwise resume, and an undisturbed state after an exception."""

from __future__ import annotations

import itertools
import random

import pytest
from programs import Net, batch, differing, program, run, same_weights, snapshot
from torch import nn

from mapsto import ComposeError, SpecError, registry, use
from mapsto.torch import build_program

NEUTRAL = {
    "accumulate": {"steps": 1},
    "clip_norm": {"max_norm": None},
    "clip_value": {"value": float("inf")},
    "mixed_precision": {"dtype": "fp32"},
    "ema": {"decay": 0.9},
    "sam": {"rho": 0.0},
    "gradient_noise": {"eta": 0.0},
    "activation_checkpointing": {"modules": ["blocks.*"]},
    "compile": {"enabled": False},
    "nonfinite": {},
    "mixup": {"alpha": 0.0},
    "cutmix": {"alpha": 0.0},
    "freeze": {"patterns": []},
    "param_groups": {"rules": []},
    "timing": {"every": 0},
    "health": {"every": 0},
    "distillation": {"teacher": Net(), "alpha": 0.0},
}
"""Settings under which weights are bitwise those of the bare step."""

WATCHING = {
    "nonfinite": [{"every": 3}, {"action": "skip"}],
    "timing": [{"every": 1}, {"every": 2}],
    "health": [{"every": 1}, {"every": 3}],
    "ema": [{"buffers": "average"}],
}
"""Settings that are not idle and still change no weight."""

ACTIVE = {
    "accumulate": {"steps": 3},
    "clip_norm": {"max_norm": 0.1},
    "clip_value": {"value": 0.01},
    "mixed_precision": {"dtype": "fp16", "init_scale": 2.0**12, "growth_interval": 3},
    "ema": {"decay": 0.9, "warmup": 3, "every": 2, "buffers": "average"},
    "sam": {"rho": 0.1},
    "gradient_noise": {"eta": 0.01},
    "activation_checkpointing": {"modules": ["blocks.0", "head"]},
    "compile": {"backend": "eager"},
    "nonfinite": {"every": 2},
    "mixup": {"alpha": 0.5},
    "freeze": {"patterns": ["embed", "blocks.0"]},
    "param_groups": {"rules": [{"match": ["head.*"], "lr": 0.1}, {"match": ["*.bias"], "weight_decay": 0.0}]},
    "no_weight_decay": {},
    "timing": {"every": 2},
    "health": {"every": 2},
}
"""Settings that do something."""


def test_every_middleware_is_here():
    installed = {e.name for e in registry.entries("middleware") if e.reference.startswith("mapsto.torch.")}
    installed -= {"compress_gradients", "powersgd", "local_sgd", "diloco"}  # between ranks: tests/mesh/test_communication.py
    assert installed == NEUTRAL.keys() | {"no_weight_decay"}
    assert installed == ACTIVE.keys() | {"cutmix", "distillation"}  # these two have their own tests


@pytest.mark.bits
@pytest.mark.parametrize("name", NEUTRAL)
def test_a_neutral_setting_is_bitwise_the_bare_step(name):
    bare, made = program(), program(use(name, **NEUTRAL[name]))
    run(bare), run(made)
    assert same_weights(bare, made)


@pytest.mark.parametrize(("name", "options"), [(n, o) for n, every in WATCHING.items() for o in every])
def test_what_watches_changes_no_weight(name, options):
    bare, made = program(), program(use(name, **options))
    run(bare, 4), run(made, 4)
    assert same_weights(bare, made)


CHANGES = sorted(ACTIVE.keys() - {"ema", "nonfinite", "timing", "health", "activation_checkpointing", "compile"})


@pytest.mark.parametrize("name", CHANGES)
def test_an_active_setting_changes_the_weights(name):
    """The control of the test above: an equality that nothing can break proves nothing."""
    bare, made = program(optimizer=use("adamw", lr=1e-2, weight_decay=0.5)), None
    made = program(use(name, **ACTIVE[name]), optimizer=use("adamw", lr=1e-2, weight_decay=0.5))
    run(bare), run(made)
    assert not same_weights(bare, made)


@pytest.mark.parametrize("name", sorted(NEUTRAL.keys() - {"ema", "nonfinite"}))  # these two are never idle
def test_idle_middleware_leaves_the_mappings_themselves(name):
    """It returns `inner`: a step pays nothing for it."""
    bare, made = program(), program(use(name, **NEUTRAL[name]))
    for mapping in ("loss", "grad", "update", "step_"):
        assert getattr(made, mapping).__qualname__ == getattr(bare, mapping).__qualname__


@pytest.mark.bits
@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("name", ACTIVE)
def test_resume_is_bitwise(name, at):
    middleware = lambda: [use(name, **ACTIVE[name])]  # noqa: E731
    options = {"schedule": use("warmup", total_steps=8, steps=2)}
    straight = program(*middleware(), **options)
    run(straight, 5)
    first = program(*middleware(), **options)
    run(first, at)
    second = program(*middleware(), **options, seed=3)
    second.restore(snapshot(first))
    assert second.position == at
    run(second, 5 - at)
    assert not differing(snapshot(straight), snapshot(second))
    evaluated = [p.evaluate([batch(99)]) for p in (straight, second)]
    assert evaluated[0] == evaluated[1]


STATEFUL = {"ema": "averages", "mixed_precision": "scale"}


@pytest.mark.parametrize("name", STATEFUL)
def test_a_resume_without_the_state_would_differ(name):
    straight, second = program(use(name, **ACTIVE[name])), program(use(name, **ACTIVE[name]))
    run(straight, 3)
    tree = snapshot(straight)
    fresh = second.middleware[name].state_dict()[STATEFUL[name]]
    assert differing(fresh, tree["middleware"][name][STATEFUL[name]])


class Boom(nn.Module):
    """A layer that fails at the n-th call."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls, self.at = Net(), 0, None

    def forward(self, x):
        self.calls += 1
        if self.at is not None and self.calls >= self.at:
            raise ZeroDivisionError("boom")
        return self.net(x)


PREFIXED = {
    "freeze": {"patterns": ["net.embed"]},
    "activation_checkpointing": {"modules": ["net.blocks.*"]},
    "param_groups": {"rules": [{"match": ["net.head.*"], "lr": 0.1}]},
}


CALLS = {"accumulate": 3, "sam": 2}
"""How often a step calls the model, where that is more than once."""


@pytest.mark.parametrize(
    ("name", "nth"), [(n, i) for n in sorted(ACTIVE.keys() - {"compile"}) for i in range(1, CALLS.get(n, 1) + 1)]
)
def test_an_exception_in_the_step_leaves_weights_mode_and_shard(name, nth):
    made = program(use(name, **PREFIXED.get(name, ACTIVE[name])), model=Boom)
    run(made, 2)
    before, state = snapshot(made), made.state
    model = made.model
    model.calls, model.at = 0, nth
    with pytest.raises(ZeroDivisionError, match="boom"):
        made.step(batch(50))
    after = snapshot(made)
    parameters = [n for n, _ in made.model.named_parameters()]
    assert not differing({n: before["model"][n] for n in parameters}, {n: after["model"][n] for n in parameters})
    assert not differing(before["optimizer"], after["optimizer"])
    assert not differing(before["middleware"], after["middleware"])
    assert (state.shard, state.summing, state.training, state.step) == (0, False, True, 2)
    assert state.model is model
    assert model.training
    model.at = None
    run(made, 1)


@pytest.mark.parametrize("name", ACTIVE)
def test_evaluation_leaves_the_trajectory_alone(name):
    one, two = program(use(name, **ACTIVE[name])), program(use(name, **ACTIVE[name]))
    run(one, 4)
    for _ in range(4):
        run(two, 1)
        two.evaluate([batch(77), batch(78, records=5)])
        list(two.predict([batch(77)]))
    assert not differing(snapshot(one), snapshot(two))


# -- composition -------------------------------------------------------------------------------------------------------
ALL = {
    "accumulate": {"steps": 2},
    "clip_norm": {"max_norm": 0.5},
    "ema": {"decay": 0.9},
    "mixed_precision": {"dtype": "fp16", "init_scale": 2.0**12},
    "nonfinite": {},
    "sam": {"rho": 0.05},
    "gradient_noise": {"eta": 1e-4},
    "timing": {"every": 1},
}
FREE = {"clip_norm", "gradient_noise"}
"""Noise before or after clipping is the user's to say: the list says it."""


def permutations(count=24):
    rng, names = random.Random(5), sorted(ALL)
    found = [names, names[::-1]]
    while len(found) < count:
        found.append(rng.sample(names, len(names)))
    return found


@pytest.fixture(scope="module")
def reference():
    """The weights of each of the two programs that there are."""
    found = {}
    for pair in (("clip_norm", "gradient_noise"), ("gradient_noise", "clip_norm")):
        names = ["timing", "nonfinite", "mixed_precision", "sam", "accumulate", "ema", *pair]
        made = program(*[use(n, **ALL[n]) for n in names])
        run(made)
        found[pair] = snapshot(made)
    return found


@pytest.mark.parametrize("names", permutations(), ids=lambda names: "-".join(n[:3] for n in names))
def test_any_list_order_is_the_same_program(names, reference):
    made = program(*[use(n, **ALL[n]) for n in names])
    plan = [p.name for p in made.plan]
    assert plan[0] == "timing"
    for outer, inner in [
        ("nonfinite", "mixed_precision"),
        ("mixed_precision", "sam"),
        ("sam", "accumulate"),
        ("ema", "clip_norm"),
        ("ema", "gradient_noise"),
    ]:
        assert plan.index(outer) < plan.index(inner), (outer, inner, plan)
    stated = tuple(n for n in names if n in FREE)
    assert tuple(n for n in plan if n in FREE) == stated
    run(made)
    assert not differing(reference[stated], snapshot(made))


def test_the_two_free_orders_differ(reference):
    one, two = reference.values()
    assert differing(one["model"], two["model"])


@pytest.mark.parametrize(("one", "two"), list(itertools.combinations(sorted(ACTIVE.keys() - {"compile"}), 2)))
def test_every_pair_works_and_names_its_order(one, two):
    plans = []
    for names in ((one, two), (two, one)):
        made = program(*[use(n, **ACTIVE[n]) for n in names])
        metrics = run(made, 2)
        assert set(made.fetch(metrics)) >= {"loss"}
        plans.append(([p.name for p in made.plan], snapshot(made)))
    forced = plans[0][0] == plans[1][0]
    if forced:
        assert not differing(plans[0][1], plans[1][1])
    else:
        assert plans[0][0] == [one, two]
        assert plans[1][0] == [two, one]


def test_what_excludes_each_other_says_so():
    with pytest.raises(ComposeError, match="'mixup' and 'cutmix' both provide 'mixing'"):
        program(use("mixup", alpha=1.0), use("cutmix", alpha=1.0))
    with pytest.raises(ComposeError, match="both provide 'averaged_weights'"):
        program(use("ema", decay=0.9), use("ema", decay=0.99))


@pytest.mark.parametrize("name", ["clip_norm", "clip_value", "gradient_noise"])
def test_what_edits_gradients_is_refused_with_a_closure(name):
    with pytest.raises(ComposeError, match=f"'{name}' changes gradients.*LBFGS evaluates its own gradients"):
        program(use(name, **ACTIVE[name]), optimizer="lbfgs")


def test_a_scaler_and_a_skipping_guard_are_refused_with_a_closure():
    for part in (use("mixed_precision", dtype="fp16"), use("nonfinite", action="skip")):
        with pytest.raises(ComposeError, match="may skip it"):
            program(part, optimizer="lbfgs")
    for part in (use("mixed_precision"), use("nonfinite"), use("accumulate", steps=2), use("ema"), use("sam")):
        run(program(part, optimizer=use("lbfgs", max_iter=2)), 2)


WRONG = [
    ("accumulate", {"steps": 0}, "middleware.0.steps: 0 is out of range: int of at least 1"),
    ("accumulate", {"step": 2}, "no argument 'step'.*did you mean 'steps'"),
    ("accumulate", {"steps": "two"}, "middleware.0.steps: 'two' is a str"),
    ("clip_norm", {"max_norm": 0.0}, "middleware.0.max_norm: 0.0 is out of range: float above 0"),
    ("clip_norm", {"max_norm": 1.0, "norm_type": -1}, "norm_type"),
    ("clip_value", {"value": -1.0}, "middleware.0.value: -1.0 is out of range"),
    ("mixed_precision", {"dtype": "float16"}, "'float16' is not a choice; allowed: bf16, fp16, fp32"),
    ("mixed_precision", {"init_scale": 0.0}, "middleware.0.init_scale: 0.0 is out of range: float above 0"),
    ("ema", {"decay": 1.5}, "decay: 1.5 is out of range"),
    ("ema", {"buffers": "avg"}, "not a choice; allowed: average, copy"),
    ("sam", {"rho": -1.0}, "rho: -1.0 is out of range: finite float of at least 0"),
    ("gradient_noise", {"eta": -1.0}, "eta: -1.0 is out of range"),
    ("activation_checkpointing", {"modules": ["block.*"]}, "no module matches 'block.\\*'.*did you mean"),
    ("compile", {"backend": "inductr"}, "no backend 'inductr'.*did you mean 'inductor'"),
    ("compile", {"mode": "max_autotune"}, "did you mean 'max-autotune'"),
    ("compile", {"modules": ["heat"]}, "did you mean 'head'"),
    ("nonfinite", {"every": 0}, "middleware.0.every: 0 is out of range"),
    ("nonfinite", {"action": "warn"}, "not a choice; allowed: raise, skip"),
    ("mixup", {"alpha": -0.1}, "middleware.0.alpha: -0.1 is out of range"),
    ("freeze", {"patterns": ["heads.*"]}, "freeze.patterns: no parameter matches 'heads.\\*'.*did you mean 'head.bias'"),
    ("freeze", {"patterns": ["*"]}, "no parameter to train"),
    ("param_groups", {"rules": [{"lr": 0.1}]}, "param_groups.rules.0: a rule has `match`"),
    ("param_groups", {"rules": [{"match": ["head.*"], "momentun": 0.1}]}, "AdamW has no option 'momentun'"),
    ("param_groups", {"rules": [{"match": ["hed.*"], "lr": 0.1}]}, "no parameter matches 'hed.\\*'"),
    ("timing", {"every": -1}, "middleware.0.every: -1 is out of range"),
    ("health", {"every": -1}, "middleware.0.every: -1 is out of range"),
    ("distillation", {"teacher": "classification"}, "there is no model 'classification'"),
    ("distillation", {"teacher": Net(), "alpha": 2.0}, "alpha: 2.0 is out of range"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_bad_options_say_what_where_and_the_nearest(name, options, message):
    with pytest.raises(SpecError, match=message):
        program(use(name, **options))


def test_classes_are_known_by_their_registered_names():
    from mapsto.torch.middleware.averaging import EMA
    from mapsto.torch.middleware.clipping import ClipNorm

    made = build_program(Net, middleware=[use(ClipNorm, max_norm=1.0), use(EMA, decay=0.5)], device="cpu")
    assert list(made.middleware) == ["ema", "clip_norm"]
    made = build_program(Net, middleware=[ClipNorm(1.0), EMA(0.5)], device="cpu")
    assert list(made.middleware) == ["ema", "clip_norm"]
