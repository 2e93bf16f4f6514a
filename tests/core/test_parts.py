from __future__ import annotations

import enum
import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Never, Optional, Protocol, Union

import pytest
from pydantic import BaseModel

import mapsto
from mapsto.core.errors import DataError, MissingExtra, RegistryError, SpecError
from mapsto.core.kinds import KINDS
from mapsto.core.parts import INJECTED, Reference, build, check, imported, of_library, resolve, use
from mapsto.core.typed import choices_of, format_type, shortened, validated

if TYPE_CHECKING:
    from only_for_type_checkers import Hidden

Install = Callable[..., object]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Sized(Protocol):
    def size(self) -> int: ...


class Shape(BaseModel):
    width: int


@dataclass
class Point:
    x: int
    y: int = 0


class Pair(NamedTuple):
    left: int
    right: int = 2


class Taken:
    """Everything that a signature can ask for."""

    def __init__(
        self,
        number: float = 0.0,
        count: int = 0,
        flag: bool = False,
        text: str = "",
        mode: Literal["min", "max"] = "min",
        maybe: Literal["a", "b"] | None = None,
        colour: Colour = Colour.RED,
        other: Optional[Colour] = None,  # noqa: UP045  # both spellings are met in the field
        either: Union[int, str] = 0,  # noqa: UP007
        path: Path = Path(),
        pair: tuple[float, float] = (0.0, 0.0),
        many: list[int] | None = None,
        table: dict[str, float] | None = None,
        names: Sequence[str] = (),
        lazy: Iterable[int] = (),
        anything: Any = None,
        call: Callable[..., Any] | None = None,
        cls: type[Any] | None = None,
        hidden: Hidden | None = None,
        sized: Sized | None = None,
        shape: Shape | None = None,
        point: Point | None = None,
        bare=None,
    ) -> None:
        self.__dict__.update({k: v for k, v in locals().items() if k != "self"})


def made(**args: Any) -> Any:
    return build(use(Taken, **args), None, path="model")


def refused(**args: Any) -> str:
    with pytest.raises(SpecError) as caught:
        check(use(Taken, **args), None, "model")
    return str(caught.value)


# -- plain arguments ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("number", 1, 1.0), ("number", "1e-3", 0.001), ("count", 3, 3), ("flag", True, True),
        ("text", "a", "a"), ("mode", "max", "max"), ("maybe", None, None), ("maybe", "b", "b"),
        ("colour", "blue", Colour.BLUE), ("colour", Colour.BLUE, Colour.BLUE), ("other", "red", Colour.RED),
        ("either", 3, 3), ("either", "x", "x"), ("path", "a/b", Path("a/b")), ("pair", [1, 2.5], (1.0, 2.5)),
        ("many", [1, 2], [1, 2]), ("many", None, None), ("table", {"a": 1}, {"a": 1.0}), ("names", ["a", "b"], ("a", "b")),
        ("anything", {"a": [1]}, {"a": (1,)}), ("call", len, len), ("cls", int, int), ("bare", "x", "x"),
        ("shape", {"width": 3}, Shape(width=3)), ("point", {"x": 1}, Point(1)), ("lazy", [1, 2], (1, 2)),
        ("hidden", "whatever", "whatever"),
    ],
)  # fmt: skip
def test_arguments_fit_their_hints(name: str, given: Any, expected: Any) -> None:
    found = getattr(made(**{name: given}), name)
    assert found == expected
    assert type(found) is type(expected)


def test_a_protocol_that_cannot_be_checked_is_the_targets_own_to_check() -> None:
    thing = object()
    assert made(sized=thing).sized is thing


class Secretive:
    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        raise RuntimeError("no schema")


class Unfinished(BaseModel):
    field: "NotDefinedAnywhere"  # type: ignore[name-defined]  # noqa: F821, UP037


@pytest.mark.parametrize("hint", [Secretive, Unfinished, 3, ClassVar[int], Never])
def test_a_hint_that_cannot_be_described_lets_any_value_pass(hint: Any) -> None:
    thing = object()
    assert validated(thing, hint, "x") is thing


def test_a_hint_that_cannot_be_hashed_is_checked() -> None:
    assert validated("3", Annotated[int, [1]], "x") == 3
    with pytest.raises(SpecError, match="x: 'a' is a str"):
        validated("a", Annotated[int, [1]], "x")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"nummber": 1}, "model.nummber: Taken has no argument 'nummber'; allowed: anything, bare, .*; did you mean 'number'"),
        ({"number": "fast"}, "model.number: 'fast' is a str, and float is wanted: input should be a valid number"),
        ({"count": 1.5}, "model.count: 1.5 is a float, and int is wanted: "),
        ({"count": 3.0}, "model.count: 3.0 is a float, and int is wanted: write 3"),
        ({"count": True}, "model.count: True is a bool, and int is wanted"),
        ({"number": False}, "model.number: False is a bool, and float is wanted"),
        ({"text": 3}, "model.text: 3 is a int, and str is wanted"),
        ({"mode": "mx"}, "model.mode: 'mx' is not a choice; allowed: max, min; did you mean 'max'"),
        ({"maybe": "c"}, "model.maybe: 'c' is not a choice; allowed: a, b"),
        ({"colour": "rad"}, "model.colour: 'rad' is not a choice; allowed: blue, red; did you mean 'red'"),
        ({"other": "rad"}, "model.other: 'rad' is not a choice; allowed: blue, red; did you mean 'red'"),
        ({"either": [1]}, r"model.either: \(1,\) is a tuple, and .*int.*str.* is wanted"),
        ({"path": 3}, "model.path: 3 is a int, and Path is wanted"),
        ({"pair": [1, "x"]}, r"model.pair: \(1, 'x'\) is a tuple, and tuple\[float, float\] is wanted \(at 1\)"),
        ({"table": {"a": "x"}}, r"model.table: \{'a': 'x'\} is a dict, and dict\[str, float\] \| None is wanted \(at a\)"),
        ({"many": "12"}, r"model.many: '12' is a str, and list\[int\] \| None is wanted"),
        ({"call": 3}, "model.call: 3 is a int, and .*Callable.* is wanted"),
    ],
)
def test_arguments_that_do_not_fit(args: dict[str, Any], message: str) -> None:
    import re

    assert re.match(message, refused(**args)), refused(**args)


def test_a_long_value_is_shortened() -> None:
    assert len(shortened(list(range(1000)))) == 80
    assert len(refused(text=list(range(1000)))) < 200


def test_hints_in_words() -> None:
    assert format_type(int) == "int"
    assert format_type(Optional[int]) == "Optional[int]" or format_type(Optional[int]) == "int | None"  # noqa: UP045
    assert choices_of(int | None) == []
    assert choices_of(list[Literal["a"]]) == []


def test_missing_arguments_are_named_with_their_types() -> None:
    def model(width: int, depth, *, seed: int, activation: str = "relu") -> None: ...

    with pytest.raises(SpecError, match=r"^model: model needs width: int, depth: a value, seed: int$"):
        check(use(model), "model", "model")


# -- finding -----------------------------------------------------------------------------------------------------------
def test_references() -> None:
    assert imported("os.path:join") is __import__("os").path.join
    assert imported("pathlib:Path.cwd") == Path.cwd
    assert build(use("collections:Counter", a=2), "model", path="model") == {"a": 2}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_package:thing", "model: 'no_such_package:thing': no module named 'no_such_package'"),
        ("pathlib:Pth", r"model: 'pathlib:Pth': pathlib has no 'Pth'; allowed: .*; did you mean 'Path'\?"),
        ("pathlib:", "model: 'pathlib:' is not of the form package.module:attribute"),
        (".x:y", r"model: '.x:y' is not of the form package.module:attribute"),
        ("sys:path", "model: 'sys:path' is a list, which cannot be called"),
        ("loss/mse", "model: 'loss/mse' is a loss, and a model is wanted here"),
        ("no_such_model_here", "model: there is no model 'no_such_model_here'; "),
    ],
)
def test_what_cannot_be_found(reference: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check(use(reference), "model", "model")


def test_a_name_without_a_kind() -> None:
    with pytest.raises(
        SpecError, match="x: 'adamw' does not say its kind here: write 'kind/adamw', a kind being one of source, order"
    ):
        resolve(use("adamw"), None, "x")


def test_a_name_with_its_kind() -> None:
    @mapsto.loss
    def mine(prediction: float, target: float) -> tuple[float, float]:
        return 1.0, 1.0

    assert resolve(use("loss/mine"), None, "x") == (mine, KINDS["loss"])


def test_a_plugin_that_fails_says_the_path_too(install: Install) -> None:
    broken = "1 / 0"
    lacking = "from mapsto.core.errors import require\nrequire('not_there_at_all', 'arrow', 'it')"
    install("plug-a", {"model/broken": "pluga:x", "model/lacking": "plugb:x"}, pluga=broken, plugb=lacking)
    with pytest.raises(
        RegistryError, match="^model: model/broken of plug-a 1.0 cannot be imported from pluga:x: ZeroDivisionError"
    ):
        check(use("broken"), "model", "model")
    with pytest.raises(MissingExtra, match="^model: it needs 'not_there_at_all'"):
        check(use("lacking"), "model", "model")


def test_a_target_that_is_not_of_its_kind() -> None:
    def short(prediction: float) -> float:
        return prediction

    with pytest.raises(
        SpecError, match=r"x: short takes 1 positional .* given prediction, target; a loss maps \(prediction, target\)"
    ):
        check(use(short), "loss", "x")
    with pytest.raises(SpecError, match="x: 3 is a int, which cannot be called"):
        check(use(3), None, "x")  # type: ignore[arg-type]


# -- signatures --------------------------------------------------------------------------------------------------------
def test_what_a_kind_gives_is_not_the_users_to_state() -> None:
    class Optimizer:
        def __init__(self, params: list[int], lr: float = 0.1) -> None:
            self.params, self.lr = params, lr

    built = build(use(Optimizer, lr=0.5), "optimizer", [1, 2], path="optimizer")
    assert (built.params, built.lr) == ([1, 2], 0.5)
    with pytest.raises(SpecError, match="optimizer.params: Optimizer has no argument 'params'; allowed: lr"):
        check(use(Optimizer, params=[1]), "optimizer", "optimizer")
    assert build(use(lambda params, lr: (params, lr), lr=1), "optimizer", [3], path="optimizer") == ([3], 1)


def test_a_function_that_is_the_mapping_gets_its_options_bound() -> None:
    def mine(prediction: float, target: float, power: float = 2.0) -> tuple[float, float]:
        return abs(prediction - target) ** power, 1.0

    assert build(use(mine, power=3), "loss", path="loss")(3.0, 1.0) == (8.0, 1.0)
    assert build(use(mine), "loss", path="loss") is mine
    with pytest.raises(SpecError, match="loss.target: mine has no argument 'target'; allowed: power"):
        check(use(mine, target=1), "loss", "loss")


def test_open_ended_targets_take_any_name() -> None:
    def keywords(**options: Any) -> dict[str, Any]:
        return options

    def everything(params: Any, *rest: Any, **options: Any) -> Any:
        return params, rest, options

    assert build(use(keywords, a=1), "model", path="model") == {"a": 1}
    assert build(use(keywords, a=1), None, path="model") == {"a": 1}
    assert build(use(everything, lr=1), "optimizer", [5], path="optimizer") == ([5], (), {"lr": 1})


def test_a_target_whose_signature_cannot_be_read_takes_any_name() -> None:
    assert build(use(dict, a=1), "model", path="model") == {"a": 1}
    built = build(use(zip, strict=True), "model", path="model", injected={"seed": 1})
    assert list(built) == []


def test_positional_only_arguments_cannot_be_stated() -> None:
    def by_position(x: int, /, y: int = 0) -> int:
        return x + y

    with pytest.raises(SpecError, match="model: by_position takes x by position only, which a spec cannot state; wrap it"):
        check(use(by_position), "model", "model")


def test_other_callables() -> None:
    class Call:
        def __call__(self, width: int = 1) -> int:
            return width

    bound = functools.partial(Taken, 2.5)
    assert build(use(Call(), width=3), "model", path="model") == 3
    with pytest.raises(SpecError, match="x.width: 'a' is a str, and int is wanted"):
        check(use(Call(), width="a"), "model", "x")
    assert build(use(bound, count=3), "model", path="model").number == 2.5
    with pytest.raises(SpecError, match="x.count: 'a' is a str"):
        check(use(bound, count="a"), "model", "x")
    assert build(use(Pair, left=1), "model", path="model") == Pair(1, 2)
    with pytest.raises(SpecError, match="x.left: 'a' is a str"):
        check(use(Pair, left="a"), "model", "x")
    assert build(use(Point, x="3"), "model", path="model") == Point(3)


def test_a_decorated_function_is_checked_by_what_it_wraps() -> None:
    def outer(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return inner

    @outer
    def model(width: Annotated[int, "columns"]) -> int:
        return width

    assert build(use(model, width=2), "model", path="model") == 2
    with pytest.raises(SpecError, match="model.width: 'a' is a str"):
        check(use(model, width="a"), "model", "model")


# -- nested parts ------------------------------------------------------------------------------------------------------
@mapsto.loss("core_tests_power")
def power(prediction: float, target: float, exponent: float = 2.0) -> tuple[float, float]:
    return abs(prediction - target) ** exponent, 1.0


class Task:
    def __init__(
        self, loss: Any, losses: Any = (), name: str = "", models: list[str] | None = None, layers: tuple[int, ...] = ()
    ) -> None:
        self.loss, self.losses, self.name, self.models, self.layers = loss, losses, name, models, layers

    def __call__(self, model: Any, batch: Any) -> Any:
        return self.loss(model, batch)


@pytest.fixture(autouse=True)
def _power() -> None:
    mapsto.loss("core_tests_power")(power)


def task(**args: Any) -> Any:
    return build(use(Task, **args), "task", path="task")


def test_a_loss_inside_a_task() -> None:
    assert task(loss="core_tests_power").loss is power
    assert task(loss=power).loss is power
    assert task(loss=use("core_tests_power", exponent=3)).loss(3.0, 1.0) == (8.0, 1.0)
    assert task(loss={"use": "core_tests_power", "exponent": 1}).loss(3.0, 1.0) == (2.0, 1.0)
    assert task(loss=functools.partial(power, exponent=1)).loss(3.0, 1.0) == (2.0, 1.0)
    live = Task(power)
    assert task(loss=live).loss is live


def test_errors_within_nested_parts_say_the_whole_path() -> None:
    with pytest.raises(SpecError, match=r"task.loss: there is no loss 'core_tests_powr'; .*did you mean 'core_tests_power'\?"):
        check(use(Task, loss="core_tests_powr"), "task", "task")
    with pytest.raises(SpecError, match=r"task.loss.exponnt: power has no argument 'exponnt'; allowed: exponent; did you mean"):
        check(use(Task, loss=use("core_tests_power", exponnt=3)), "task", "task")
    with pytest.raises(SpecError, match="task.losses.1.exponent: 'x' is a str"):
        check(use(Task, loss=power, losses=["core_tests_power", use(power, exponent="x")]), "task", "task")
    with pytest.raises(SpecError, match="task.losses.0.loss: there is no loss 'nothing'"):
        check(use(Task, loss=power, losses=[{"loss": "nothing", "weight": 2}]), "task", "task")


def test_lists_and_mappings_of_parts() -> None:
    assert task(loss=power, losses=["core_tests_power", power, use(power, exponent=1)]).losses[:2] == [power, power]
    assert task(loss=power, losses={"a": "core_tests_power", "b": use(power)}).losses == {"a": power, "b": power}
    weighed = task(loss=power, losses=[{"loss": "core_tests_power", "weight": 2, "field": "x"}]).losses
    assert weighed == [{"loss": power, "weight": 2, "field": "x"}]
    assert task(loss=power, losses=[["core_tests_power", 2], [use(power), 1]]).losses == [[power, 2], [power, 1]]
    free = build(use(Taken, anything={"deep": [{"x": use("loss/core_tests_power")}]}), "model", path="m").anything
    assert free == {"deep": [{"x": power}]}


def test_strings_that_are_their_parameters_own_are_not_names() -> None:
    assert task(loss=power, models=["core_tests_power", "other"]).models == ["core_tests_power", "other"]
    assert task(loss=power, layers=[64, 32]).layers == (64, 32)

    def typed(model: str, source: Path, task: Literal["a", "b"], order: Path | None = None) -> Any:
        return model, source, task, order

    built = build(use(typed, model="bert", source="a.csv", task="a", order="b.csv"), "model", path="model")
    assert built == ("bert", Path("a.csv"), "a", Path("b.csv"))


def test_a_hint_may_say_the_kind() -> None:
    def pick(one: Annotated[Any, KINDS["loss"]], several: list[Annotated[Any, KINDS["loss"]]] | None = None) -> tuple[Any, Any]:
        return one, several

    assert build(use(pick, one="core_tests_power", several=["core_tests_power"]), "model", path="model") == (power, [power])


def test_classes_are_built_where_a_part_is_wanted_and_kept_where_a_class_is() -> None:
    class Layer:
        pass

    def net(layer: Any, head: Any = None, layers: type[Any] | None = None) -> Any:
        return layer, head, layers

    built = build(use(net, layer=Layer, head=Layer, layers=Layer), "model", path="model")
    assert isinstance(built[0], Layer)
    assert built[1:] == (Layer, Layer)


def test_a_reference_is_the_class_or_function_itself() -> None:
    assert build(use(Taken, anything=Reference("pathlib:Path")), "model", path="m").anything is Path
    assert build(use(Taken, anything=[{"a": {"reference": "pathlib:Path"}}]), "model", path="m").anything == ({"a": Path},)
    with pytest.raises(SpecError, match=r"m.anything.0.a: 'pathlib:Pth': pathlib has no 'Pth'"):
        check(use(Taken, anything=[{"a": {"reference": "pathlib:Pth"}}]), "model", "m")


def test_a_nested_part_whose_kind_is_given_something_waits_for_it() -> None:
    class Lookahead:
        def __init__(self, params: Any, optimizer: Any) -> None:
            self.inner = optimizer(params)

    def sgd(params: Any, lr: float, seed: int) -> Any:
        return params, lr, seed

    built = build(use(Lookahead, optimizer=use(sgd, lr=0.1)), "optimizer", [1], path="optimizer", injected={"seed": 7})
    assert built.inner == ([1], 0.1, 7)


# -- injected ----------------------------------------------------------------------------------------------------------
def test_injected_values_fill_what_is_left_open_here_and_in_nested_parts() -> None:
    def order(seed: int) -> int:
        return seed

    def reader(order: Any, seed: int = 0, batch_size: int = 1) -> Any:
        return order, seed, batch_size

    part = use(reader, order=order, batch_size=4)
    with pytest.raises(SpecError, match="data.train.order: order needs seed: int"):
        check(part, "reader", "data.train")
    check(part, "reader", "data.train", injected=INJECTED)
    injected = {"seed": 5, "total_steps": 10}
    assert build(part, "reader", path="data.train", injected=injected) == (5, 5, 4)
    assert build(use(reader, order=use(order, seed=1), seed=2), "reader", path="data.train", injected=injected) == (1, 2, 1)


def test_injected_values_bind_options_of_mappings() -> None:
    def warm(event: Any, total_steps: int) -> int:
        return total_steps

    assert build(use(warm), "observer", path="x", injected={"total_steps": 9, "seed": 1})(None) == 9


# -- building ----------------------------------------------------------------------------------------------------------
def test_a_live_object_is_returned_as_it_is() -> None:
    thing = object()
    assert build(thing, "model", path="model") is thing


def test_arguments_that_the_target_refuses() -> None:
    class Picky:
        def __init__(self, lr: float) -> None:
            if lr < 0:
                raise ValueError(f"Invalid learning rate: {lr}")

    with pytest.raises(SpecError, match="^optimizer: Picky refuses these arguments: Invalid learning rate: -1.0$") as caught:
        build(use(Picky, lr=-1), "model", path="optimizer")
    assert isinstance(caught.value.__cause__, ValueError)

    class Third(Picky):
        def __init__(self, lr: float) -> None:
            super().__init__(lr)

    class Fourth(Third):
        def __init__(self, lr: float) -> None:
            super().__init__(lr)

    with pytest.raises(SpecError, match="^optimizer: Fourth refuses these arguments: Invalid learning rate"):
        build(use(Fourth, lr=-1), "model", path="optimizer")


def test_a_call_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SpecError, match="^model: zip refuses these arguments: "):
        build(use(zip, nothing=1), None, path="model")


def test_an_error_deep_within_the_target_keeps_its_traceback() -> None:
    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        raise ValueError("a bug")

    def wrong() -> None:
        raise TypeError("unsupported operand")

    with pytest.raises(ValueError, match="^a bug$"):
        build(use(deep, n=5), "model", path="model")
    with pytest.raises(TypeError, match="^unsupported operand$"):
        build(use(wrong), "model", path="model")


def test_a_spec_error_from_within_gets_its_path() -> None:
    def fussy(name: str) -> None:
        raise SpecError(f"name: {name!r} is not a table")

    with pytest.raises(SpecError, match="^data.train: name: 'x' is not a table$"):
        build(use(fussy, name="x"), "reader", path="data.train")


@pytest.mark.parametrize("depth", [0, 5])
def test_an_error_of_ours_from_within_stays_of_its_kind_and_gets_its_path_once(depth: int) -> None:
    def empty(n: int) -> None:
        if n:
            empty(n - 1)
        raise DataError("no records: a.csv")

    def outer() -> None:
        build(use(empty, n=depth), "source", path="data.train.source")

    with pytest.raises(DataError, match="^data.train.source: no records: a.csv$"):
        build(use(empty, n=depth), "source", path="data.train.source")
    with pytest.raises(DataError, match="^data.train.source: no records: a.csv$"):
        build(use(outer), "reader", path="data.train")


def test_an_error_of_ours_that_is_more_than_a_sentence_stays_as_it_is() -> None:
    class Numbered(DataError):
        def __init__(self, message: str, *, line: int) -> None:
            super().__init__(message)
            self.line = line

    def torn() -> None:
        raise Numbered("a torn line", line=3)

    with pytest.raises(Numbered, match="^a torn line$") as caught:
        build(use(torn), "source", path="data.train.source")
    assert caught.value.line == 3


def test_nothing_is_imported_for_an_argument_that_only_looks_like_a_reference() -> None:
    assert made(text="antigravity:fly").text == "antigravity:fly"
    assert "antigravity" not in sys.modules


def test_mappings_reach_the_target_as_dicts() -> None:
    def takes(options: Mapping[str, Any]) -> Any:
        return options

    assert type(build(use(takes, options={"a": {"b": 1}}), "model", path="model")["a"]) is dict


def test_whose_a_target_is_is_known_without_reading_what_is_installed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for each part of each run."""
    mapsto.registry.entries()
    monkeypatch.setattr("importlib.metadata.Distribution.metadata", property(lambda self: 1 / 0))
    assert of_library(BaseModel)
    assert not of_library(use)
