from __future__ import annotations

import functools
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mapsto
from mapsto.core.compose import Declared, declared, wrapped_by
from mapsto.core.errors import ComposeError
from mapsto.core.plan import IN_LIST, Placed, arrange, distinct, plan, render
from mapsto.core.registry import registry


def names(placed: list[Placed]) -> list[str]:
    return [p.name for p in placed]


def order(*items: tuple[str, Declared]) -> list[str]:
    return names(arrange(items))


# -- declaring ---------------------------------------------------------------------------------------------------------
def test_a_class_wraps_what_it_has_methods_for() -> None:
    @mapsto.middleware
    class BothWays:
        def grad(self, inner: Any) -> Any:
            return inner

        def loss(self, inner: Any) -> Any:
            return inner

    assert declared(BothWays).wraps == declared(BothWays()).wraps == wrapped_by(BothWays) == ("loss", "grad")
    assert registry.get("middleware", "both_ways") is BothWays


def test_a_function_says_what_it_wraps_and_keeps_it_when_its_options_are_bound() -> None:
    @mapsto.middleware("clip", wraps="update", needs=["gradients"], before="ema", after=("scale", "noise"), provides="clipped")
    def clip_all(inner: Any, limit: float = 1.0) -> Any:
        return inner

    expected = Declared(
        wraps=("update",), needs=("gradients",), before=("ema",), after=("scale", "noise"), provides=("clipped",)
    )
    assert declared(clip_all) == expected
    assert declared(functools.partial(functools.partial(clip_all, limit=2.0))) == expected
    assert registry.get("middleware", "clip") is clip_all


def test_what_declares_nothing() -> None:
    class Plain:
        def step(self, inner: Any) -> Any:
            return inner

    assert declared(Plain) == declared(Plain()) == Declared(wraps=("step",))
    assert declared(lambda inner: inner) == Declared()


def test_a_subclass_adds_what_it_has_methods_for_to_what_it_inherits() -> None:
    @mapsto.middleware(before="ema")
    class Parent:
        def update(self, inner: Any) -> Any:
            return inner

    class Child(Parent):
        def step(self, inner: Any) -> Any:
            return inner

    class Same(Parent):
        pass

    assert declared(Child) == declared(Child()) == Declared(wraps=("update", "step"), before=("ema",))
    assert declared(Same) is declared(Parent)


def test_an_object_may_declare_by_itself() -> None:
    class Chooses:
        def __init__(self, mapping: str) -> None:
            self.__mapsto__ = Declared(wraps=(mapping,))

        def loss(self, inner: Any) -> Any:
            return inner

        def step(self, inner: Any) -> Any:
            return inner

    assert declared(Chooses("loss")).wraps == ("loss",)


def test_refused_declarations() -> None:
    def function(inner: Any) -> Any:
        return inner

    class Empty:
        def setup(self, builder: Any) -> None: ...

    with pytest.raises(
        ComposeError, match=r"'function' wraps 'updates'; allowed: grad, loss, step, update; did you mean 'update'\?"
    ):
        mapsto.middleware(wraps="updates")(function)
    with pytest.raises(
        ComposeError, match=r'function \'function\' does not say what it wraps: write @mapsto.middleware\(wraps="up'
    ):
        mapsto.middleware(function)
    with pytest.raises(ComposeError, match=r"'Empty' says that it wraps 'grad' and has no method grad\(self, inner\)"):
        mapsto.middleware(wraps="grad")(Empty)
    assert mapsto.middleware(Empty) is Empty
    assert declared(Empty) == Declared()


# -- arranging ---------------------------------------------------------------------------------------------------------
def test_the_list_is_the_order_where_nothing_is_declared() -> None:
    placed = arrange([("c", Declared()), ("a", Declared()), ("b", Declared())])
    assert names(placed) == ["c", "a", "b"]
    assert [p.why for p in placed] == [(IN_LIST,)] * 3
    assert [p.index for p in placed] == [0, 1, 2]


def test_before_stands_outside_and_after_inside() -> None:
    assert order(("a", Declared()), ("b", Declared(before=("a",)))) == ["b", "a"]
    assert order(("a", Declared(after=("b",))), ("b", Declared())) == ["b", "a"]
    assert order(("a", Declared(before=("absent",))), ("b", Declared())) == ["a", "b"]


def test_declarations_reach_capabilities_and_every_copy_of_a_name() -> None:
    assert order(("x", Declared(provides=("scaled",))), ("b", Declared(before=("scaled",)))) == ["b", "x"]
    assert order(("x", Declared()), ("x.2", Declared()), ("b", Declared(before=("x",)))) == ["b", "x", "x.2"]


def test_a_need_stands_inside_its_provider_unless_the_pair_says_otherwise() -> None:
    provider = ("p", Declared(provides=("k",)))
    placed = arrange([("n", Declared(needs=("k",))), provider])
    assert names(placed) == ["p", "n"]
    assert placed[1].why == ("n needs 'k', provided by p",)
    assert order(provider, ("n", Declared(needs=("k",), before=("p",)))) == ["n", "p"]
    for first_listed in (True, False):  # whichever of the two says it, wherever it stands in the list
        items = [("n", Declared(needs=("k",))), ("p", Declared(provides=("k",), after=("n",)))]
        assert order(*(items if first_listed else items[::-1])) == ["n", "p"]
    assert order(("s", Declared(needs=("k",), provides=("k",)))) == ["s"]


def test_a_need_that_nothing_provides() -> None:
    with pytest.raises(
        ComposeError, match=r"'n' needs 'scaler', which nothing in this plan provides; no middleware of it provides"
    ):
        arrange([("n", Declared(needs=("scaler",)))])
    with pytest.raises(ComposeError, match=r"provides; allowed: scaled; did you mean 'scaled'\?"):
        arrange([("n", Declared(needs=("scaler",))), ("p", Declared(provides=("scaled",)))])


def test_a_capability_that_two_provide() -> None:
    with pytest.raises(ComposeError, match=r"middlewares 'a' and 'c' both provide 'k': keep one of them"):
        arrange([("a", Declared(provides=("k",))), ("b", Declared()), ("c", Declared(provides=("k",)))])


def test_a_cycle_names_every_edge() -> None:
    items = [
        ("free", Declared()),
        ("a", Declared(before=("b",))),
        ("b", Declared(before=("c",))),
        ("c", Declared(before=("a",))),
        ("behind", Declared(after=("a",))),
    ]
    with pytest.raises(ComposeError) as caught:
        arrange(items)
    assert str(caught.value).splitlines() == [
        "these middlewares cannot be put in one order:",
        "  'c' must stand outside 'a': c says before='a'",
        "  'b' must stand outside 'c': b says before='c'",
        "  'a' must stand outside 'b': a says before='b'",
    ]


def test_needs_of_each_other_are_a_cycle() -> None:
    with pytest.raises(
        ComposeError, match=r"(?s)'b' must stand outside 'a': a needs 'y'.*'a' must stand outside 'b': b needs 'x'"
    ):
        arrange([("a", Declared(needs=("y",), provides=("x",))), ("b", Declared(needs=("x",), provides=("y",)))])


@st.composite
def plans(draw: st.DrawFn) -> list[tuple[str, Declared]]:
    n = draw(st.integers(1, 6))
    labels = [f"m{i}" for i in range(n)]
    capabilities = {f"k{i}": draw(st.integers(0, n - 1)) for i in range(draw(st.integers(0, 2)))}
    targets = st.lists(st.sampled_from([*labels, *capabilities]), max_size=2).map(tuple)
    needs = st.lists(st.sampled_from(list(capabilities)), max_size=1).map(tuple) if capabilities else st.just(())
    return [
        (
            label,
            Declared(
                before=draw(targets),
                after=draw(targets),
                needs=draw(needs),
                provides=tuple(k for k, owner in capabilities.items() if owner == i),
            ),
        )
        for i, label in enumerate(labels)
    ]


def oracle(items: list[tuple[str, Declared]]) -> list[str] | None:
    """By brute force: the first permutation, compared by list index, that keeps every declaration; None if none does."""
    called = [{name, *own.provides} for name, own in items]
    said = set()
    for i, (_, own) in enumerate(items):
        said |= {(i, j) for j in range(len(items)) if j != i and called[j] & set(own.before)}
        said |= {(j, i) for j in range(len(items)) if j != i and called[j] & set(own.after)}
    needed = set()
    for i, (_, own) in enumerate(items):
        for j in range(len(items)):
            if j != i and set(items[j][1].provides) & set(own.needs) and (i, j) not in said:
                needed.add((j, i))
    for candidate in permutations(range(len(items))):
        place = {index: at for at, index in enumerate(candidate)}
        if all(place[outer] < place[inner] for outer, inner in said | needed):
            return [items[i][0] for i in candidate]
    return None


@given(plans())
def test_arrange_is_the_first_order_that_keeps_every_declaration(items: list[tuple[str, Declared]]) -> None:
    expected = oracle(items)
    if expected is None:
        with pytest.raises(ComposeError, match="cannot be put in one order"):
            arrange(items)
    else:
        placed = arrange(items)
        assert names(placed) == expected
        assert [items[p.index][0] for p in placed] == expected


# -- the plan ----------------------------------------------------------------------------------------------------------
def test_distinct_names() -> None:
    assert distinct(["a", "b", "a", "a", "b"]) == ["a", "b", "a.2", "a.3", "b.2"]


def test_render_without_middleware() -> None:
    assert render([]) == (
        "step   = update after grad\ngrad   = backward of loss\nupdate = optimizer\nloss   = task's loss\n\nno middleware\n"
    )


def test_render_says_what_wraps_what_and_why() -> None:
    mapsto.middleware("elsewhere", wraps="step")(lambda inner: inner)
    placed = arrange(
        [
            ("timing", Declared(wraps=("step",))),
            ("nonfinite", Declared(wraps=("step", "grad"), before=("timing",))),
            ("ema", Declared(wraps=("update",), after=("clip_norm", "elsewhere", "elsewere"))),
            ("clip_norm", Declared(wraps=("update",), provides=("clipped",))),
            ("compile", Declared()),
        ]
    )
    assert render(placed) == (
        "step   = nonfinite( timing( update after grad ))\n"
        "grad   = nonfinite( backward of loss )\n"
        "update = clip_norm( ema( optimizer ))\n"
        "loss   = task's loss\n"
        "\n"
        "   middleware  wraps       why it stands here\n"
        "1  nonfinite   grad, step  nonfinite says before='timing'\n"
        "2  timing      step        nonfinite says before='timing'\n"
        "3  clip_norm   update      ema says after='clip_norm'\n"
        "4  ema         update      ema says after='clip_norm'; after='elsewere' names nothing here\n"
        "5  compile     -           its place in the list\n"
    )


class Averages:
    def update(self, inner: Any) -> Any:
        return inner


def test_plan_names_parts_classes_functions_and_objects() -> None:
    @mapsto.middleware("guard", before="averages")
    class Guards:
        def step(self, inner: Any) -> Any:
            return inner

    def plain(inner: Any, limit: float) -> Any:
        return inner

    placed = plan([Averages(), Averages, mapsto.use(Guards), mapsto.use("guard"), functools.partial(plain, limit=2), plain])
    assert names(placed) == ["guard", "guard.2", "averages", "averages.2", "plain", "plain.2"]
    assert placed[2].why == ("guard says before='averages'", "guard.2 says before='averages'")
    with pytest.raises(mapsto.SpecError, match=r"middleware.1: there is no middleware 'gard'; .*did you mean 'guard'\?"):
        plan([Averages, "gard"])


def test_what_looks_at_the_whole_gradient_says_so_and_stands_outside_of_any_mesh() -> None:
    class Placed:
        def grad(self, inner: Any) -> Any:
            return inner

    @mapsto.middleware("whole", wraps="grad", before="mesh")
    def whole(inner: Any) -> Any:
        return inner

    @mapsto.middleware("pieces", wraps="grad", after="mesh")
    def pieces(inner: Any) -> Any:
        return inner

    assert names(plan(["pieces", "whole"], Placed())) == ["whole", "mesh", "pieces"]
    assert "names nothing here" not in render(plan(["pieces", "whole"]))
