from __future__ import annotations

import dataclasses
import enum
import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

import mapsto
from mapsto.core.errors import ComposeError, SpecError
from mapsto.core.parts import Part, build, check, use
from mapsto.core.spec import CheckpointPlan, Spec, digest
from mapsto.core.values import PLAIN, Reference

Install = Callable[..., object]


class Net:
    def __init__(self, width: int = 1, activation: Any = None, loss: Any = None) -> None:
        self.width, self.activation, self.loss = width, activation, loss


class Reader:
    def __init__(self, source: Any = None, batch_size: int = 1, transforms: Any = (), seed: int = 0) -> None:
        self.seed = seed


class Task:
    def __call__(self, model: Any, batch: Any) -> Any:
        return model(batch)


class Sgd:
    def __init__(self, params: Any, lr: float = 0.1) -> None:
        self.lr = lr


def flip(batch: Any, p: float = 0.5) -> Any:
    return batch


def square(prediction: Any, target: Any, scale: float = 1.0) -> Any:
    return (prediction - target) ** 2, 1


class Colour(enum.Enum):
    RED = "red"


def small(**changes: Any) -> Spec:
    values: dict[str, Any] = {"model": Net, "data": {"train": Part(Reader)}, "task": Task, "optimizer": Sgd}
    return Spec(**{**values, **changes})


def named(**changes: Any) -> Spec:
    values: dict[str, Any] = {"model": use("mlp", sizes=[1, 2]), "data": {"train": {"source": "digits"}}}
    return Spec(**{**values, **changes})


def refused(**changes: Any) -> str:
    with pytest.raises(SpecError) as caught:
        named(**changes)
    return str(caught.value)


# -- making ------------------------------------------------------------------------------------------------------------
def test_slots_hold_parts() -> None:
    spec = Spec(
        model="mlp",
        data={"train": {"source": "digits", "batch_size": 8}, "valid": "other", "test": use(Reader)},
        optimizer=functools.partial(Sgd, lr=0.5),
        middleware=["ema", {"use": "clip_norm", "max_norm": 1}],
        observers=None,  # type: ignore[arg-type]
    )
    assert spec.model == Part("mlp")
    assert spec.task == Part("classification")
    assert spec.data == {"train": use("batches", source="digits", batch_size=8), "valid": Part("other"), "test": Part(Reader)}
    assert spec.optimizer == use(Sgd, lr=0.5)
    assert spec.middleware == (Part("ema"), use("clip_norm", max_norm=1))
    assert spec.observers == ()


def test_live_objects_stay() -> None:
    net, reader = Net(), Reader()
    spec = Spec(model=net, data={"train": reader}, observers=[net])
    assert spec.model is net
    assert spec.data["train"] is reader
    assert spec.observers[0] is net


def test_fields_are_fitted_to_their_types() -> None:
    spec = named(steps="10", seed=np.int64(3), checkpoint={"every": "5", "mode": "max"}, imports=[Path("a.py")])
    assert (spec.steps, spec.seed, spec.imports) == (10, 3, ("a.py",))
    assert type(spec.seed) is int
    assert spec.checkpoint == CheckpointPlan(every=5, mode="max")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": "many"}, "steps: 'many' is a str, and int | None is wanted: "),
        ({"seed": True}, "seed: True is a bool, and int is wanted"),
        ({"name": 3}, "name: 3 is a int, and str is wanted"),
        ({"steps": 0}, "steps: 0 is too small; the least is 1"),
        ({"data": {None: "x"}}, "data: None names no data set: a text such as train is wanted"),
        ({"seed": -1}, "seed: -1 is too small; the least is 0"),
        ({"seed": 3.0}, "seed: 3.0 is a float, and int is wanted: write 3"),
        ({"log_every": 0}, "log_every: 0 is too small; the least is 1"),
        ({"evaluate_every": 0}, "evaluate_every: 0 is too small; the least is 1"),
        ({"steps": 1, "epochs": 1}, "steps, epochs: say one of them, not both"),
        ({"middleware": "ema"}, "middleware: a list is wanted, outermost first; write ['ema']"),
        ({"observers": 3}, "observers: a list is wanted, one an item; write [3]"),
        ({"middleware": {"use": "ema"}}, "middleware: a list is wanted, outermost first; write [{'use': 'ema'}]"),
        ({"middleware": [3]}, "middleware.0: 3 is a int, and a name, a part or an object is wanted"),
        ({"imports": "a.py"}, "imports: a list is wanted, recipe files; write ['a.py']"),
        ({"data": "digits"}, "data: a mapping of readers is wanted, such as {train: {source: ..., batch_size: 64}}"),
        ({"data": {"use": "digits"}}, "data: a mapping of readers is wanted, such as {train: {source: ..., batch_size: 64}}"),
        ({"data": {"train": 3}}, "data.train: 3 is a int, and a name, a part or an object is wanted"),
        (
            {"optimizer": {"lr": 0.1}},
            "optimizer: a mapping needs the key 'use', which names what is used; {'lr': 0.1} has none",
        ),
        ({"optimizer": 0.1}, "optimizer: 0.1 is a float, and a name, a part or an object is wanted"),
        ({"optimizer": ["adamw"]}, "optimizer: ['adamw'] is a list, and a name, a part or an object is wanted"),
        ({"checkpoint": None}, "checkpoint: None is not a mapping, such as {every: 100, keep: 3}"),
        (
            {"checkpoint": {"evry": 1}},
            "checkpoint.evry: unknown key; allowed: asynchronous, best, every, keep, metric, mode; did you mean 'every'?",
        ),
        ({"checkpoint": {"every": 0}}, "checkpoint.every: 0 is too small; the least is 1"),
        ({"checkpoint": {"keep": "x"}}, "checkpoint.keep: 'x' is a str, and int | None is wanted: "),
        ({"checkpoint": {"mode": "mn"}}, "checkpoint.mode: 'mn' is not a choice; allowed: max, min; did you mean 'min'?"),
    ],
)
def test_what_cannot_be_a_spec(changes: dict[str, Any], message: str) -> None:
    assert refused(**changes).startswith(message)


# -- values ------------------------------------------------------------------------------------------------------------
def test_a_spec_is_a_frozen_value() -> None:
    one, two = named(middleware=["ema"]), named(middleware=["ema"])
    assert one == two
    assert hash(one) == hash(two)
    assert one != named(middleware=["ema", "ema"])
    assert one != "spec"
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.seed = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="a spec is frozen"):
        one.data["valid"] = 3  # type: ignore[index]


def test_live_objects_are_equal_to_themselves_only() -> None:
    @dataclasses.dataclass
    class Unhashable:
        x: int = 1

    live = Unhashable()
    assert named(observers=[live]) == named(observers=[live])
    assert hash(named(observers=[live])) == hash(named(observers=[live]))
    assert named(observers=[live]) != named(observers=[Unhashable()])


# -- checking ----------------------------------------------------------------------------------------------------------
def test_check_returns_the_spec() -> None:
    spec = small(observers=[len], schedule=lambda optimizer, total_steps: None, middleware=[Net()])
    assert spec.check() is spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": use(Net, widht=3)},
            "model.widht: Net has no argument 'widht'; allowed: activation, loss, width; did you mean 'width'?",
        ),
        ({"model": use("no_such")}, "model: there is no model 'no_such'; "),
        ({"model": None}, "model: null, and a part is wanted"),
        ({"optimizer": use(Sgd, lr="fast")}, "optimizer.lr: 'fast' is a str, and float is wanted"),
        ({"data": {"train": use(Reader, batch_size=0.5)}}, "data.train.batch_size: 0.5 is a float, and int is wanted"),
        (
            {"observers": [use(lambda event: None, x=1)]},
            "observers.<lambda>.x: <lambda> has no argument 'x'; nothing is allowed here",
        ),
        ({"middleware": [use("no_such")]}, "middleware.no_such: there is no middleware 'no_such'; "),
    ],
)
def test_check_says_the_path(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        small(**changes).check()
    assert str(caught.value).startswith(message)


def test_a_function_of_a_model_and_a_batch_is_a_task() -> None:
    small(task=square).check()


def test_check_finds_middlewares_that_cannot_be_put_in_one_order() -> None:
    @mapsto.middleware(before="inner_one")
    class OuterOne:
        def step(self, inner: Any) -> Any:
            return inner

    @mapsto.middleware(before="outer_one")
    class InnerOne(OuterOne):
        pass

    small(middleware=[OuterOne]).check()
    with pytest.raises(ComposeError, match="'inner_one' must stand outside 'outer_one'"):
        small(middleware=[OuterOne, InnerOne]).check()


def test_check_injects_what_the_engine_will() -> None:
    def schedule(optimizer: Any, total_steps: int, steps_per_epoch: int, seed: int) -> None: ...

    small(schedule=schedule).check()

    def asks(optimizer: Any, total_stepz: int) -> None: ...

    with pytest.raises(SpecError, match="schedule: asks needs total_stepz: int"):
        small(schedule=asks).check()


# -- round trips -------------------------------------------------------------------------------------------------------
names = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=5).filter(
    lambda n: n not in ("use", "live")
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(names | st.integers(0, 9), inner, max_size=3).filter(lambda d: set(d) != {"reference"})
        | st.builds(Part, names, st.dictionaries(names, inner, max_size=3))
    ),
    max_leaves=8,
)
parts = st.builds(Part, names, st.dictionaries(names, values, max_size=3))


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    length = draw(st.sampled_from([{}, {"steps": 3}, {"epochs": 2}]))
    return Spec(
        model=draw(parts), data=draw(st.dictionaries(names, parts, max_size=3)), task=draw(parts), optimizer=draw(parts),
        schedule=draw(st.none() | parts), middleware=tuple(draw(st.lists(parts, max_size=3))),
        observers=tuple(draw(st.lists(parts, max_size=2))), seed=draw(st.integers(0, 99)),
        name=draw(st.text(min_size=1, max_size=5, alphabet="aZ0_ -.ä字").filter(lambda n: n.strip() and n[0] != ".")),
        checkpoint=draw(st.builds(CheckpointPlan, every=st.none() | st.integers(1, 9), mode=st.sampled_from(["min", "max"]))),
        **length,
    )  # fmt: skip


@given(specs())
def test_a_spec_of_names_round_trips(spec: Spec) -> None:
    again = Spec.from_yaml(spec.to_yaml())
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.to_data() == spec.to_data()
    assert digest(again.identity()) == digest(spec.identity())
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_defaults_that_decide_the_trajectory_are_written() -> None:
    assert named().to_data() == {
        "model": {"use": "mlp", "sizes": [1, 2]},
        "data": {"train": {"use": "batches", "source": "digits"}},
        "task": {"use": "classification"},
        "optimizer": {"use": "adamw"},
        "seed": 0,
    }


def test_classes_and_functions_are_written_by_reference() -> None:
    here = __name__
    spec = small(model=use(Net, activation=flip, loss=use(square, scale=2), width=3), middleware=[])
    data = spec.to_data()
    assert data["model"] == {
        "use": f"{here}:Net",
        "activation": {"reference": f"{here}:flip"},
        "loss": {"use": f"{here}:square", "scale": 2},
        "width": 3,
    }
    again = Spec.from_yaml(spec.to_yaml())
    assert again.to_data() == data
    assert again.model.args["activation"] == Reference(f"{here}:flip")
    first, second = (build(s.model, "model", path="model") for s in (spec, again))
    assert type(first) is type(second) is Net
    assert first.activation is second.activation is flip
    assert second.loss(3.0, 1.0) == (4.0, 1)


def test_registered_names_are_written_where_there_is_one() -> None:
    mapsto.loss("core_square")(square)
    mapsto.transform("core_flip")(flip)
    spec = small(
        model=use(Net, loss=use(square)),
        data={"train": use(Reader, transforms=[use(flip, p=1), flip])},
        middleware=[],
    )
    data = spec.to_data()
    assert data["model"]["loss"] == {"use": "core_square"}
    assert data["data"]["train"]["transforms"] == [{"use": "core_flip", "p": 1}, {"reference": f"{__name__}:flip"}]


def test_leaves_that_have_a_plain_form() -> None:
    assert named(model=use("m", path=Path("a/b"), colour=Colour.RED)).to_data()["model"] == {
        "use": "m", "path": "a/b", "colour": "red",
    }  # fmt: skip


@pytest.mark.parametrize("where", ["object", "local", "lambda", "argument", "part"])
def test_live_objects_cannot_be_written_and_can_be_described(where: str) -> None:
    class Local:
        pass

    spec, path = {
        "object": (small(model=Net()), "model"),
        "local": (small(model=Local), "model"),
        "lambda": (small(optimizer=lambda params: None), "optimizer"),
        "argument": (small(model=use(Net, activation=[Net()])), "model.activation.0"),
        "part": (small(model=use(Net, activation=use(Local))), "model.activation"),
    }[where]
    with pytest.raises(SpecError, match=rf"^{path}: a live object \(.*\) cannot be written to a file; name what makes it: "):
        spec.to_yaml()
    text = spec.to_yaml(live=True)
    assert "live:" in text
    assert " at 0x" not in text
    with pytest.raises(
        SpecError, match=rf"^{path}: this spec was written with a live object \(.*\), which a file cannot hold; start"
    ):
        Spec.from_yaml(text)


def test_what_is_in_the_main_module_cannot_be_found_by_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import __main__

    monkeypatch.setattr(__main__, "Net", Net, raising=False)
    monkeypatch.setattr(Net, "__module__", "__main__")
    with pytest.raises(SpecError, match="^model: a live object"):
        small().to_yaml()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "model: missing; a Spec needs model, data"),
        ("[1]", "a spec is a mapping, not a list"),
        ("{model: m, data: {}, optimzer: x}", r"optimzer: unknown key; allowed: .*; did you mean 'optimizer'\?"),
        ("{model: m}", "data: missing; a Spec needs model, data"),
        ("model: [", "this cannot be read as YAML: "),
        ("{model: m, data: {}, 3: x}", "3: unknown key; allowed: "),
    ],
)
def test_yaml_that_is_no_spec(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=f"^{message}"):
        Spec.from_yaml(text)


def test_imports_are_relative_to_the_file() -> None:
    spec = Spec.from_yaml("{model: m, data: {}, imports: [a.py, /b/c.py]}", base=Path("/x/y"))
    assert spec.imports == ("/x/y/a.py", "/b/c.py")


def test_identity_is_what_decides_the_trajectory() -> None:
    spec = named()
    assert spec.identity() == named(name="other", steps=9, log_every=1, device="cpu").identity()
    for changes in ({"seed": 1}, {"middleware": ["ema"]}, {"model": "other"}, {"data": {"train": "x"}}, {"schedule": "cosine"}):
        assert digest(named(**changes).identity()) != digest(spec.identity())


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, 2: [3, {"b": None}]}) == digest({2: (3, {"b": None}), "a": 1})
    assert len({digest(x) for x in ({"a": 1}, {"a": 2}, {"a": "1"}, {1: 1}, {"1": 1}, [1], None)}) == 7
    assert type(digest({})) in PLAIN


# -- overrides ---------------------------------------------------------------------------------------------------------
BASE = Spec(
    model=use("mlp", sizes=[1, {"deep": 2}], options={"a": {"b": 1}, 0: "zero"}),
    data={"train": {"source": use("mixture", sources=["digits", use("rows", path="a.csv")]), "transforms": ["flip", "crop"]}},
    middleware=[use("clip_norm", max_norm=1.0), "ema", use("package.module:Sam", rho=0.1)],
    epochs=2,
)


@pytest.mark.parametrize(
    ("change", "path", "expected"),
    [
        ("optimizer.lr=1e-3", "optimizer", use("adamw", lr=0.001)),
        ("optimizer=sgd", "optimizer", use("sgd")),
        ("optimizer={use: sgd, lr: 1}", "optimizer", use("sgd", lr=1)),
        ("model.use=cnn", "model", use("cnn", sizes=[1, {"deep": 2}], options={"a": {"b": 1}, 0: "zero"})),
        ("model.sizes.1.deep=3", "model.sizes", (1, {"deep": 3})),
        ("model.sizes=[5]", "model.sizes", (5,)),
        ("model.options.a.b=null", "model.options", {"a": {"b": None}, 0: "zero"}),
        ("model.options.0=one", "model.options", {"a": {"b": 1}, 0: "one"}),
        ("model.options.c=2", "model.options", {"a": {"b": 1}, 0: "zero", "c": 2}),
        ("model.width=2", "model.width", 2),
        ("schedule=cosine", "schedule", use("cosine")),
        ("data.train.batch_size=32", "data.train.batch_size", 32),
        ("data.train.use=other", "data.train.use", "other"),
        ("data.valid={source: x}", "data.valid", use("batches", source="x")),
        ("data.train.source.sources.rows.path=b.csv", "data.train.source.sources.1", use("rows", path="b.csv")),
        ("data.train.source.sources.digits.split=test", "data.train.source.sources.0", use("digits", split="test")),
        ("data.train.transforms.flip.p=0.1", "data.train.transforms", (use("flip", p=0.1), "crop")),
        ("data.train.transforms.flip=null", "data.train.transforms", ("crop",)),
        ("data.train.transforms+=noise", "data.train.transforms", ("flip", "crop", "noise")),
        ("data.train.fields+=x", "data.train.fields", ("x",)),
        ("middleware.clip_norm.max_norm=2", "middleware.0", use("clip_norm", max_norm=2)),
        ("middleware.0.max_norm=2", "middleware.0", use("clip_norm", max_norm=2)),
        ("middleware.ema.decay=0.9", "middleware.1", use("ema", decay=0.9)),
        ("middleware.ema.use=swa", "middleware.1", use("swa")),
        ("middleware.sam.rho=0.2", "middleware.2", use("package.module:Sam", rho=0.2)),
        ("middleware+=noise", "middleware.3", use("noise")),
        ("middleware+={use: noise, scale: 1}", "middleware.3", use("noise", scale=1)),
        ("middleware=[]", "middleware", ()),
        ("middleware=null", "middleware", ()),
        ("checkpoint.every=5", "checkpoint.every", 5),
        ("steps=5", "epochs", None),
        ("epochs=5", "steps", None),
        (" seed =7", "seed", 7),
        ("name='7'", "name", "7"),
    ],
)
def test_overrides(change: str, path: str, expected: Any) -> None:
    before = pickle.dumps(BASE)
    found: Any = BASE.override(change)
    for step in path.split("."):
        if isinstance(found, Part):
            found = found.use if step == "use" else found.args[step]
        else:
            found = (
                found[int(step)]
                if isinstance(found, tuple)
                else found[step]
                if isinstance(found, dict)
                else getattr(found, step)
            )
    assert found == expected
    assert pickle.loads(before) == BASE


def test_overrides_apply_in_turn_and_leave_the_rest_alone() -> None:
    spec = BASE.override("middleware+=noise", "middleware.noise.scale=2", "optimizer=sgd", "optimizer.lr=1")
    assert spec.middleware == (*BASE.middleware, use("noise", scale=2))
    assert spec.optimizer == use("sgd", lr=1)
    assert (spec.model, spec.data, spec.checkpoint) == (BASE.model, BASE.data, BASE.checkpoint)
    assert BASE.override() == BASE


def test_overrides_keep_live_objects() -> None:
    net = Net()
    spec = small(model=net, observers=[net]).override("seed=3")
    assert spec.model is net
    assert spec.observers[0] is net
    assert small(observers=[net]).override("observers.net=null").observers == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.lr", "'optimizer.lr' is not an override: write path=value, such as optimizer.lr=1e-3"),
        ("=3", "'=3' is not an override: "),
        ("+=3", r"'\+=3' is not an override: "),
        ("epoch=3", r"epoch: unknown key; allowed: .*; did you mean 'epochs'\?"),
        ("optimzer.lr=3", r"optimzer.lr: there is no 'optimzer'; allowed: .*; did you mean 'optimizer'\?"),
        ("schedule.warmup=3", "schedule.warmup: 'schedule' is not set: set it first; allowed: "),
        ("data.trian.batch_size=3", r"data.trian.batch_size: there is no 'data.trian'; allowed: train; did you mean 'train'\?"),
        ("model.size.0=3", r"model.size.0: there is no 'model.size'; allowed: options, sizes; did you mean 'sizes'\?"),
        ("model.sizes.0.x=3", "model.sizes.0.x: 'model.sizes.0' is a int, which has no 'x'"),
        (
            "middleware.clip_nrm.max_norm=2",
            r"middleware: no 'clip_nrm' in this list; allowed: clip_norm, ema, sam; did you mean 'clip_norm'",
        ),
        ("model.sizes.7=2", "model.sizes: no '7' in this list; write an index below 2"),
        ("optimizer+=3", r"optimizer: \+= appends to a list, and 'optimizer' is a Part"),
        ("steps=many", "steps: 'many' is a str, and int . None is wanted"),
        ("seed=[", r"seed: this cannot be read as YAML: (?s:.*)line 1"),
        ("middleware=ema", r"middleware: a list is wanted, outermost first; write \['ema'\]"),
        ("optimizer=3", "optimizer: 3 is a int, and a name, a part or an object is wanted"),
        ("model={a: 1}", "model: a mapping needs the key 'use'"),
        ("checkpoint.evry=3", r"checkpoint.evry: unknown key; .*did you mean 'every'\?"),
    ],
)
def test_overrides_that_cannot_be(change: str, message: str) -> None:
    with pytest.raises(SpecError, match=f"^{message}"):
        BASE.override(change)


def test_axes_of_a_mesh_that_is_not_set_are_said_one_by_one() -> None:
    spec = Spec(model=use(Net), data={"train": use(Reader)})
    assert spec.override("mesh.shard=4", "mesh.replicate=2").mesh == Part("ranks", {"shard": 4, "replicate": 2})
    assert spec.override("mesh.servers=2").mesh == Part("servers", {"servers": 2})
    assert spec.override("mesh.shard=4").override("mesh.shard=2").mesh == Part("ranks", {"shard": 2})
    assert spec.override("seed=1").mesh is None


def test_an_override_of_both_lengths() -> None:
    with pytest.raises(SpecError, match="steps, epochs: say one of them, not both"):
        BASE.override("steps=3", "epochs=2")
    for changes in (("epochs=null", "steps=3"), ("steps=3", "epochs=null")):
        assert (BASE.override(*changes).steps, BASE.override(*changes).epochs) == (3, None)


def test_a_name_that_stands_twice_wants_an_index() -> None:
    spec = named(middleware=["ema", "clip", "ema"])
    with pytest.raises(SpecError, match=r"middleware: 'ema' stands 2 times in this list; write its index, one of \[0, 2\]"):
        spec.override("middleware.ema.decay=0.9")
    assert spec.override("middleware.2.decay=0.9").middleware[2] == use("ema", decay=0.9)


def test_use_may_become_what_is_nonsense_and_check_says_so() -> None:
    with pytest.raises(SpecError, match="^model: .* is a NoneType, which cannot be called"):
        small().override("model.use=null").check()


# -- names of runs -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("../../x", "would lead to another folder"),
        ("/tmp/x", "would lead to another folder"),
        ("a/b", "would lead to another folder"),
        ("a\\b", "would lead to another folder"),
        (".", "would lead to another folder"),
        (".hidden", "would lead to another folder"),
        ("a\0b", "holds control characters"),
        ("a\x1b[31m", "holds control characters"),
        ("a\nb", "holds control characters"),
        ("x" * 101, "is longer than 100 bytes"),
        ("ä" * 51, "is longer than 100 bytes"),
    ],
)
def test_a_run_s_name_is_that_of_a_folder_below_runs(name: str, why: str) -> None:
    with pytest.raises(SpecError, match=f"name: .* {why}; a run is kept in runs/NAME-TIME"):
        Spec(model="torch.nn:Identity", data={}, name=name)


@pytest.mark.parametrize("name", ["run", "first try", "größe-2", "a.b", "字" * 33])
def test_any_other_name_is_taken(name: str) -> None:
    assert Spec(model="torch.nn:Identity", data={}, name=name).name == name


# -- values that cannot be -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.lr=.nan", "optimizer.lr: nan is not a number, and float is wanted"),
        ("optimizer.lr=nan", "optimizer.lr: 'nan' is not a number, and float is wanted"),
        ("optimizer.lr=inf", "optimizer.lr: 'inf' is out of range: finite float of at least 0 is wanted"),
        ("optimizer.lr='-1'", "optimizer.lr: '-1' is out of range: finite float of at least 0 is wanted"),
        ("optimizer.betas=[0.9, nan]", r"optimizer.betas: .* is not a number"),
        ("middleware=[{use: clip_norm, max_norm: nan}]", "middleware.clip_norm.max_norm: 'nan' is"),
        ("optimizer.lr=.inf", "optimizer.lr: inf is out of range: finite float of at least 0 is wanted"),
        ("optimizer.lr=-1", "optimizer.lr: -1 is out of range: finite float of at least 0 is wanted"),
        ("optimizer.betas=[0.9, 1.5]", "optimizer.betas: 1.5 is out of range: float of at least 0 and below 1 is wanted"),
        ("optimizer.eps=-1", "optimizer.eps: -1 is out of range"),
        ("optimizer={use: 'torch.optim:SGD', momentum: -1}", "optimizer.momentum: -1 is out of range"),
        ("schedule={use: 'torch.optim.lr_scheduler:StepLR', step_size: 1, gamma: .nan}", "schedule.gamma: nan is not a number"),
        ("schedule={use: plateau, factor: 1}", "schedule.factor: 1 is out of range: float of at least 0 and below 1 is wanted"),
        (
            "middleware=[{use: clip_norm, max_norm: -1}]",
            r"middleware.clip_norm.max_norm: -1 is out of range: float above 0 \| None",
        ),
        (
            "middleware=[{use: ema, decay: 1.5}]",
            "middleware.ema.decay: 1.5 is out of range: float of at least 0 and of at most 1",
        ),
        ("observers=[{use: early_stopping, patience: 0}]", "observers.early_stopping.patience: 0 is out of range"),
        ("data.train.source=3", "data.train.source: 3 is a int, and a source is wanted"),
        ("data.train.batch_size=0", "data.train.batch_size: 0 is out of range: int of at least 1 is wanted"),
        ("data={}", "data.train: missing, and it is what a run trains on; there is no data set"),
        ("data.train=null", "data.train: null, and a reader is wanted"),
        ("epochs=0", "epochs: 0 is too small; the least is 1"),
        ("seed=1.5", "seed: 1.5 is a float, and int is wanted"),
        ("seed=.nan", "seed: nan is not a number, and int is wanted"),
    ],
)
def test_a_value_that_cannot_be_is_told_before_anything_is_built(change: str, message: str) -> None:
    spec = Spec(
        model=use("torch.nn:Linear", in_features=2, out_features=2),
        data={"train": {"source": {"input": [[0.0, 1.0]], "target": [0]}, "batch_size": 1}},
        optimizer=use("adamw", lr=0.1),
    )
    assert spec.check() is spec
    with pytest.raises(SpecError, match=f"^{message}"):
        spec.override(change).check()


def test_a_number_may_be_infinite_or_missing_where_that_is_meant() -> None:
    source = {"input": [[float("nan"), 1.0]], "target": [0]}
    clip = use("clip_norm", max_norm=float("inf"), norm_type=float("inf"))
    Spec(model="torch.nn:Identity", data={"train": {"source": source, "batch_size": 1}}, middleware=[clip]).check()


def test_a_mapping_states_its_ranges_in_its_signature() -> None:
    def ranged(inner: Any, rate: Annotated[float, Field(gt=0, le=2)] = 1.0, free: float = float("nan")) -> Any:
        return inner

    assert check(use(ranged, rate=2, free=float("nan")), "middleware", "x").args["rate"] == 2.0
    with pytest.raises(SpecError, match="x.rate: 3 is out of range: float above 0 and of at most 2 is wanted"):
        check(use(ranged, rate=3), "middleware", "x")
