"""Every optimizer and schedule of the framework: steps, and a bitwise restore by names at every step."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from programs import Net, batch, differing, program, run, same_weights, snapshot
from torch import nn
from torch.optim import lr_scheduler

from mapsto import CheckpointError, SpecError, registry, use
from mapsto.torch import build_program

OPTIMIZERS = {
    name: found
    for name, found in vars(torch.optim).items()
    if inspect.isclass(found) and issubclass(found, torch.optim.Optimizer) and found is not torch.optim.Optimizer
}
OPTIONS = {
    "LBFGS": [{"max_iter": 3}],
    "SGD": [{"momentum": 0.9, "nesterov": True}, {}],
    "Adam": [{}, {"amsgrad": True}, {"fused": True}],
}


class Matrices(nn.Module):
    """Only matrices, for Muon, which takes nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 12, bias=False), nn.Linear(12, 3, bias=False)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Lookup(nn.Module):
    """Sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 3, sparse=True)

    def forward(self, x):
        return self.table((x[:, 0] * 10).long().clamp(-20, 20) + 25)


def model_of(name):
    return {"Muon": Matrices, "SparseAdam": Lookup}.get(name, Net)


@pytest.mark.bits
@pytest.mark.parametrize(("name", "options"), [(n, o) for n in sorted(OPTIMIZERS) for o in OPTIONS.get(n, [{}])])
def test_any_optimizer_steps_and_restores_bitwise(name, options):
    def made():
        return program(model=model_of(name), optimizer=use(OPTIMIZERS[name], **options))

    straight, first = made(), made()
    start = snapshot(straight)["model"]
    run(straight, 4), run(first, 2)
    assert differing(start, snapshot(straight)["model"]), "it moves"
    second = made()
    second.restore(snapshot(first))
    run(second, 2)
    assert not differing(snapshot(straight), snapshot(second))


def test_registered_optimizers_build_by_name():
    for entry in registry.entries("optimizer"):
        if entry.reference.startswith(("torch.", "mapsto.")):
            made = program(optimizer=entry.name, model=Matrices if entry.name == "muon" else Net)
            run(made, 1)


def test_third_party_optimizers_need_nothing():
    class Lion(torch.optim.Optimizer):
        def __init__(self, params, lr=1e-3):
            super().__init__(params, {"lr": lr})

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        held = self.state[p].setdefault("m", torch.zeros_like(p))
                        p.add_(torch.sign(held.mul(0.9).add(p.grad, alpha=0.1)), alpha=-group["lr"])
                        held.mul_(0.99).add_(p.grad, alpha=0.01)

    straight, first, second = (program(optimizer=use(Lion, lr=1e-2)) for _ in range(3))
    run(straight, 4), run(first, 2)
    second.restore(snapshot(first))
    run(second, 2)
    assert not differing(snapshot(straight), snapshot(second))


def test_a_function_of_the_parameters_is_an_optimizer():
    made = program(optimizer=lambda params: torch.optim.RMSprop(params, lr=1e-2))
    run(made, 1)
    assert isinstance(made.optimizer, torch.optim.RMSprop)


def test_lbfgs_is_the_loop_by_hand():
    made = program(model=lambda: Net(dropout=0.0, norm=False), optimizer=use("lbfgs", max_iter=5, lr=0.5))
    twin = program(model=lambda: Net(dropout=0.0, norm=False))
    optimizer = torch.optim.LBFGS(twin.model.parameters(), max_iter=5, lr=0.5)
    for step in range(2):
        data = batch(step)

        def closure(data=data):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(twin.model(data["input"]), data["target"])
            loss.backward()
            return loss

        optimizer.step(closure)
    run(made, 2)
    for one, two in zip(made.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_the_state_keeps_its_own_dtype():
    """`load_state_dict` would cast float32 moments of bfloat16 weights (and their step) to bfloat16."""

    class Wide(torch.optim.Optimizer):
        def __init__(self, params, lr=1e-2):
            super().__init__(params, {"lr": lr})

        @torch.no_grad()
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                held = self.state[p].setdefault("m", torch.zeros_like(p, dtype=torch.float32))
                held.mul_(0.9).add_(p.grad.float(), alpha=0.1)
                p.add_(held.to(p.dtype), alpha=-0.01)

    def made():
        return build_program(lambda: nn.Linear(8, 3).bfloat16(), half, use(Wide), device="cpu")

    def half(model, data):
        prediction = model(data["input"].bfloat16()).float()
        return nn.functional.cross_entropy(prediction, data["target"], reduction="sum"), len(prediction), prediction

    straight, first, second = made(), made(), made()
    run(straight, 4), run(first, 2)
    second.restore(snapshot(first))
    assert {v["m"].dtype for v in second.optimizer.state.values()} == {torch.float32}
    run(second, 2)
    assert not differing(snapshot(straight), snapshot(second))


def test_a_learning_rate_that_is_a_tensor():
    def made():
        return program(
            optimizer=lambda params: torch.optim.Adam(params, lr=torch.tensor(1e-2), fused=True),
            schedule=use("exponential", gamma=0.5),
        )

    straight, first, second = made(), made(), made()
    run(straight, 4), run(first, 2)
    second.restore(snapshot(first))
    assert isinstance(second.optimizer.param_groups[0]["lr"], torch.Tensor)
    run(second, 2)
    assert not differing(snapshot(straight), snapshot(second))
    assert straight.rates() == {"lr": pytest.approx(1e-2 / 16)}


# -- schedules ---------------------------------------------------------------------------------------------------------
TOTAL = 7
SCHEDULES = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": use(lr_scheduler.StepLR, step_size=2),
    "MultiStepLR": use(lr_scheduler.MultiStepLR, milestones=[2, 5]),
    "ConstantLR": use(lr_scheduler.ConstantLR, factor=0.3, total_iters=3),
    "LinearLR": use(lr_scheduler.LinearLR, total_iters=5),
    "ExponentialLR": use(lr_scheduler.ExponentialLR, gamma=0.7),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=3), lr_scheduler.ExponentialLR(o, 0.7)], milestones=[3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.7)], o
    ),
    "CosineAnnealingLR": use(lr_scheduler.CosineAnnealingLR, T_max=TOTAL),
    "CosineAnnealingWarmRestarts": use(lr_scheduler.CosineAnnealingWarmRestarts, T_0=3),
    "CyclicLR": use(lr_scheduler.CyclicLR, base_lr=1e-3, max_lr=1e-1, step_size_up=3),
    "OneCycleLR": use(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=TOTAL + 1),
    "PolynomialLR": use(lr_scheduler.PolynomialLR, total_iters=TOTAL, power=2.0),
    "ReduceLROnPlateau": use("plateau", patience=0, metric="valid/loss"),
    "warmup": use("warmup", total_steps=TOTAL, steps=0.3),
    "each_epoch": use("each_epoch", schedule=use(lr_scheduler.StepLR, step_size=1), steps_per_epoch=2),
}


def test_every_schedule_of_the_framework_is_here():
    known = {
        n
        for n, c in vars(lr_scheduler).items()
        if inspect.isclass(c) and issubclass(c, lr_scheduler.LRScheduler) and not n.startswith("_") and n != "LRScheduler"
    }
    assert known <= SCHEDULES.keys()


def scheduled(name):
    return program(optimizer=use("sgd", lr=0.1, momentum=0.9), schedule=SCHEDULES[name])


def advance(made, steps):
    rates = []
    for _ in range(steps):
        run(made, 1)
        made.observe({"valid/loss": 1.0 + made.position})
        rates.append(made.rates()["lr"])
    return rates


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_restores_at_every_step(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if name == "SequentialLR" else "error")  # SequentialLR steps itself with an epoch
        straight = scheduled(name)
        rates = advance(straight, TOTAL)
        assert len(set(rates)) > 1, "a schedule that schedules nothing restores trivially"
        first = scheduled(name)
        for at in range(TOTAL):
            second = scheduled(name)
            second.restore(snapshot(first))
            assert advance(second, TOTAL - at) == rates[at:]
            assert not differing(snapshot(straight), snapshot(second))
            advance(first, 1)


def test_warmup_against_its_formula():
    import math

    made = program(optimizer=use("sgd", lr=1.0), schedule=use("warmup", total_steps=10, steps=4, final=0.1))
    rates = [made.rates()["lr"]]
    for _ in range(10):
        run(made, 1)
        rates.append(made.rates()["lr"])
    wanted = [0.25, 0.5, 0.75, 1.0, *(0.1 + 0.9 * (1 + math.cos(math.pi * i / 6)) / 2 for i in range(7))]
    assert rates == pytest.approx(wanted)


def test_a_plateau_waits_for_its_metric():
    made = scheduled("ReduceLROnPlateau")
    run(made, 1)
    with pytest.raises(SpecError, match="ReduceLROnPlateau waits for 'valid/loss'; .*did you mean 'valid/los'"):
        made.observe({"valid/los": 1.0})


# -- restoring what does not fit ---------------------------------------------------------------------------------------
def test_a_restore_that_fails_changes_nothing_and_names_every_key():
    made = program(use("ema"), schedule=use("exponential", gamma=0.9))
    run(made, 1)
    good = snapshot(made)
    renamed = {**good["model"]}
    renamed["hat.weight"] = renamed.pop("head.weight")
    narrow = {**good["model"], "head.bias": torch.zeros(5)}
    names = {**good["optimizer"], "names": ["embed.weight", *good["optimizer"]["names"][2:]]}
    for change, message in [
        ({"model": renamed}, "model key: .*missing: head.weight; unexpected: hat.weight"),
        ({"model": narrow}, r"head.bias: \[5\] in the checkpoint, \[3\] in the model"),
        ({"optimizer": names}, "optimizer parameter: .*missing: embed.bias"),
        ({"middleware": {}}, "middleware: .*missing: ema"),
        ({"middleware": {**good["middleware"], "swa": {}}}, "middleware: .*unexpected: swa"),
        ({"schedule": None}, "the run has a schedule and the checkpoint has none"),
    ]:
        twin = program(use("ema"), schedule=use("exponential", gamma=0.9))
        before = snapshot(twin)
        with pytest.raises(CheckpointError, match=message):
            twin.restore({**good, **change})
        assert not differing(before, snapshot(twin))
    del good["step"]
    with pytest.raises(CheckpointError, match="missing: step"):
        made.restore(good)


def test_other_groups_are_refused():
    one = program(use("param_groups", rules=[{"match": ["head.*"], "lr": 0.1}]))
    two = program(use("param_groups", rules=[{"match": ["head.bias"], "lr": 0.1}]))
    with pytest.raises(CheckpointError, match=r"the optimizer's groups|optimizer parameter"):
        two.restore(one.state_tree())
    bare = program()
    with pytest.raises(CheckpointError, match="middleware|groups"):
        bare.restore(one.state_tree())


def test_a_restore_in_place_keeps_running():
    made = program()
    run(made, 2)
    tree = snapshot(made)
    run(made, 2)
    later = snapshot(made)
    made.restore(tree)
    assert not differing(snapshot(made), tree)
    run(made, 2)
    assert not differing(snapshot(made), later)
    assert same_weights(made, made)
