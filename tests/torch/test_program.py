"""The program: building, stepping in one's own loop, what is refused and how."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from programs import Net, batch, differing, program, run, same_weights, snapshot
from torch import nn

import mapsto
from mapsto import ComposeError, DataError, MapstoError, SpecError, use
from mapsto.torch import build_program


# -- the same as a loop by hand ----------------------------------------------------------------------------------------
def by_hand(model, steps, lr=1e-2, seed=3):
    """The loop people write, with the random streams of a program."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    for step in range(steps):
        data = batch(step)
        torch.manual_seed(mapsto.derive(seed, "step", step, 0))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data["input"]), data["target"]).backward()
        optimizer.step()
    return model


def test_a_program_is_the_loop_by_hand():
    made = program()
    model = by_hand(copy.deepcopy(made.model), 4)
    run(made, 4)
    for (name, one), two in zip(made.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6, msg=name)
    assert torch.equal(made.model.blocks[0][1].num_batches_tracked, torch.tensor(4))


def test_one_s_own_loop():
    made = build_program(Net(), optimizer=use(torch.optim.SGD, lr=0.1), seed=1, device="cpu")
    window = [made.step((batch(i)["input"], batch(i)["target"])) for i in range(5)]
    found = made.fetch(window)
    assert set(found) == {"loss"}
    assert made.position == 5
    assert found["loss"] == pytest.approx(np.mean([float(t / w) for t, w in (m["loss"] for m in window)]))
    assert set(made.evaluate([batch(9)])) == {"loss", "accuracy"}


def test_arrays_tensors_and_pairs_are_the_same_batch():
    steps = [
        batch(0),
        (batch(0)["input"], batch(0)["target"]),
        [batch(0)["input"], batch(0)["target"]],
        {n: v.numpy() for n, v in batch(0).items()},
        (batch(0)["input"].numpy(), batch(0)["target"].numpy()),
    ]
    made = [program() for _ in steps]
    for one, data in zip(made, steps, strict=True):
        one.step(data)
        assert same_weights(one, made[0])


def test_read_only_arrays_are_taken_without_a_warning():
    data = {n: v.numpy() for n, v in batch(0).items()}
    for value in data.values():
        value.flags.writeable = False
    program().step(data)


def test_a_live_module_is_used_and_trained_in_place():
    net = Net()
    before = net.head.weight.detach().clone()
    made = build_program(net, device="cpu")
    assert made.model is net
    made.step(batch(0))
    assert not torch.equal(net.head.weight, before)


def test_models_are_made_from_the_seed():
    one, two, other = program(seed=1), program(seed=1), program(seed=2)
    assert same_weights(one, two)
    assert not same_weights(one, other)


def test_steps_depend_on_nothing_global():
    one, two = program(), program()
    run(one, 3)
    for step in range(3):
        torch.manual_seed(step * 7)
        torch.rand(step + 1)
        two.step(batch(step))
    assert not differing(snapshot(one), snapshot(two))


def test_dropout_differs_by_step_and_by_seed():
    outputs = set()
    for seed in (1, 2):
        made = program(seed=seed, model=lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 3)))
        made.model[0].register_forward_hook(lambda m, a, out: outputs.add(tuple((out == 0).flatten().tolist())))
        run(made, 3, start=0)
    assert len(outputs) == 6


def test_the_weighted_mean_over_a_window_is_exact():
    made = program(optimizer=use("sgd", lr=0.0), model=lambda: Net(dropout=0.0, norm=False))
    data = batch(0, records=23)
    whole = made.fetch([made.step(data)])["loss"]
    parts = made.fetch([made.step({n: v[s] for n, v in data.items()}) for s in (slice(0, 3), slice(3, 20), slice(20, 23))])[
        "loss"
    ]
    assert parts == pytest.approx(whole, rel=1e-6)


def test_tied_weights_are_one_parameter():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, ids):
            return self.out(self.embed(ids))

    def tied():
        return build_program(Tied, optimizer=use("adamw", lr=0.1), device="cpu")

    made, data = tied(), (torch.tensor([1, 2, 3]), torch.tensor([2, 3, 4]))
    made.step(data)
    assert made.state.names == ["embed.weight"]
    assert made.model.out.weight is made.model.embed.weight
    second = tied()
    second.restore(snapshot(made))
    assert second.model.out.weight is second.model.embed.weight
    made.step(data), second.step(data)
    assert not differing(snapshot(made), snapshot(second))


def test_a_parameter_without_a_gradient_is_left_alone():
    class Partly(Net):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(3, 3)

    made = program(model=Partly)
    before = made.model.unused.weight.detach().clone()
    run(made, 2)
    assert torch.equal(made.model.unused.weight, before)
    twin = program(model=Partly)
    twin.restore(snapshot(made))
    run(made, 2), run(twin, 2)
    assert not differing(snapshot(made), snapshot(twin))


def test_weights_are_copies():
    made = program()
    copies = made.weights()
    copies["head.bias"][:] = 7
    assert not (made.model.head.bias == 7).any()
    assert set(copies) == set(made.model.state_dict())
    half = build_program(lambda: nn.Linear(8, 3).bfloat16(), device="cpu").weights()
    assert half["weight"].dtype == torch.bfloat16


def test_the_summary_counts():
    made = program(use("freeze", patterns=["embed"]), use("clip_norm", max_norm=1.0))
    said = made.summary()
    total = sum(p.numel() for p in made.model.parameters())
    assert (said["parameters"], said["trainable"]) == (total, total - 8 * 12 - 12)
    assert said["middleware"] == ["freeze", "clip_norm"]
    assert (said["model"], said["optimizer"], said["device"], said["dtypes"]) == ("Net", "AdamW", "cpu", ["float32"])


@mapsto.middleware(wraps="update", after="pushes_back")
class PullsFront:
    def update(self, inner):
        return inner


@mapsto.middleware("pushes_back", wraps="update")
class Pushes:
    def update(self, inner):
        return inner


@pytest.mark.parametrize("first", [f"{__name__}:PullsFront", PullsFront, PullsFront(), "pulls_front"])
@pytest.mark.parametrize("second", [f"{__name__}:Pushes", Pushes, Pushes(), "pushes_back"])
@pytest.mark.parametrize("more", [{}, {"micro_shards": 2}])
def test_what_is_shown_is_what_is_built_however_a_middleware_is_named(first, second, more):
    spec = mapsto.Spec(model=nn.Linear(2, 2), data={}, middleware=[first, second, use("accumulate", steps=2)], **more)
    built = mapsto.build_program(spec.model, middleware=spec.middleware, injected={"total_steps": 1}, **more)
    assert built.plan == spec.plan()
    names = [placed.name for placed in built.plan]
    assert [n for n in names if n != "mesh"] == ["pushes_back", "pulls_front", "accumulate"]
    assert ("mesh" in names) == bool(more)


def test_a_middleware_that_declares_otherwise_once_it_is_made_is_refused():
    class Fickle:
        def __init__(self):
            self.__mapsto__ = mapsto.core.compose.Declared(wraps=("update",), before=("clip_norm",))

        def update(self, inner):
            return inner

    with pytest.raises(ComposeError, match=r"middleware.0: 'fickle' declares .* let the class declare it"):
        mapsto.build_program(nn.Linear(2, 2), middleware=[Fickle])
    assert mapsto.build_program(nn.Linear(2, 2), middleware=[Fickle()]).plan[0].declared.before == ("clip_norm",)


def test_own_middleware_as_a_class_a_function_and_an_object():
    seen = []

    def halve(inner, *, by: float = 2.0):
        def update(state, metrics):
            torch._foreach_div_(state.gradients(), by)
            seen.append("halve")
            return inner(state, metrics)

        return update

    halve.__mapsto__ = mapsto.core.compose.Declared(wraps=("update",))

    class Look:
        def step(self, inner):
            def step(state, data):
                seen.append("look")
                return inner(state, data)

            return step

    bare = program(optimizer=use("sgd", lr=0.05))
    run(bare, 1)
    for middleware in ([Look, use(halve, by=2.0)], [Look(), halve]):
        seen.clear()
        made = program(*middleware, optimizer=use("sgd", lr=0.1))
        run(made, 1)
        assert seen == ["look", "halve"]
        for one, two in zip(bare.model.parameters(), made.model.parameters(), strict=True):
            torch.testing.assert_close(one, two)


# -- what is refused ---------------------------------------------------------------------------------------------------
def test_a_wrong_width_names_the_layer_and_the_shapes():
    with pytest.raises(DataError) as caught:
        program().step((torch.zeros(4, 9), torch.zeros(4, dtype=torch.int64)))
    said = str(caught.value)
    assert said.startswith("step 0: 'embed' (Linear) does not accept argument 0 float32[4, 9]")
    assert "the batch holds input float32[4, 9], target int64[4]" in said


def test_a_wrong_dtype_names_the_layer():
    with pytest.raises(DataError, match=r"'embed' \(Linear\) does not accept argument 0 int64\[4, 8\]"):
        program().step((torch.zeros(4, 8, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)))


def test_a_wrong_number_of_inputs_names_the_model():
    made = program(task=use("classification", input=["input", "target"]))
    with pytest.raises(DataError, match=r"the model \(Net\) does not accept argument 0 .*, argument 1 .*takes 2 positional"):
        made.step(batch(0))


def test_targets_that_do_not_fit_come_with_the_batch():
    with pytest.raises((DataError, ValueError)) as caught:
        program().step((torch.zeros(4, 8), torch.zeros(5, dtype=torch.int64)))
    told = str(caught.value) + " ".join(getattr(caught.value, "__notes__", []))
    assert "input float32[4, 8], target int64[5]" in told


def test_a_failed_step_is_not_counted_and_the_next_one_works():
    made, twin = program(), program()
    with pytest.raises(DataError):
        made.step((torch.zeros(4, 9), torch.zeros(4, dtype=torch.int64)))
    run(made, 2), run(twin, 2)
    assert not differing(snapshot(made), snapshot(twin))


def test_a_batch_that_is_no_batch():
    with pytest.raises(DataError, match=r"a batch is a dict of fields or a pair \(input, target\), not a Tensor"):
        program().step(torch.zeros(4, 8))


def test_a_live_optimizer_is_refused_with_the_way_out():
    net = Net()
    with pytest.raises(SpecError, match=r"a live optimizer holds parameters.*write use\(torch.optim.sgd.SGD, \.\.\.\) instead"):
        build_program(net, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))


WRONG = [
    ({"model": lambda: 3}, "model: an nn.Module is wanted, and .* gave a int"),
    ({"optimizer": "adamww"}, "optimizer: there is no optimizer 'adamww'.*did you mean 'adamw'"),
    ({"optimizer": use("adamw", learning_rate=1e-3)}, "optimizer.learning_rate: adamw has no argument"),
    ({"optimizer": use("adamw", lr="high")}, "optimizer.lr: 'high' is a str, and float is wanted"),
    ({"optimizer": lambda params: 3}, "gave a int, and a torch.optim.Optimizer is wanted"),
    ({"task": "clasification"}, "did you mean 'classification'"),
    ({"task": use("classification", loss="cross_entropi")}, "task.loss: .*did you mean 'cross_entropy'"),
    ({"schedule": "warmup"}, "schedule: warmup needs total_steps: int"),
    (
        {"schedule": use("warmup", total_steps=5, decay="cosin")},
        "schedule.decay: 'cosin' is not a choice; .*did you mean 'cosine'",
    ),
    ({"schedule": use("warmup", total_steps=5, steps=9)}, "schedule.steps: 9 is not between 0 and total_steps"),
    ({"device": "cuda:7"}, "device: 'cuda:7' cannot be used here"),
    ({"device": "gpu"}, "device: 'gpu' cannot be used here"),
    ({"middleware": ["clip_nrm"]}, "middleware.0: there is no middleware 'clip_nrm'.*did you mean 'clip_norm'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_cannot_be_built_says_where(options, message):
    with pytest.raises(SpecError, match=message):
        build_program(**{"model": Net, "device": "cpu", **options})


def test_middleware_that_would_do_nothing_or_is_no_mapping_is_refused():
    class Nothing:
        pass

    class Broken:
        def update(self, inner):
            return 3

    with pytest.raises(ComposeError, match="'nothing' wraps none of loss, grad, update, step"):
        program(Nothing())
    with pytest.raises(ComposeError, match="middleware Broken returned a int for update, which cannot be called"):
        program(Broken())


def test_a_model_without_parameters_says_so():
    with pytest.raises(SpecError, match="Identity has no parameter to train"):
        build_program(nn.Identity, device="cpu")


def test_memory_errors_are_left_as_they_are():
    class Full(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, x):
            raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError, match="full"):
        program(model=Full).step(batch(0))
    assert not issubclass(torch.OutOfMemoryError, MapstoError)
