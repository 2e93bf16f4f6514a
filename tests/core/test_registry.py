from __future__ import annotations

import sys
import types
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import mapsto
from mapsto.core.errors import MissingExtra, RegistryError, UnknownName
from mapsto.core.kinds import KINDS, Kind
from mapsto.core.laws import Laws, all_laws, find_law
from mapsto.core.registry import Registry, decorator, place_of, reference_of, registry, snake
from mapsto.core.wings import WINGS, Framework, add_wing

Install = Callable[..., object]


def halve(batch: object, by: float = 2.0) -> object:
    return batch


class Doubler:
    def __call__(self, batch: object) -> object:
        return batch


def points(*pairs: tuple[str, str]) -> Registry:
    return Registry(installed=lambda: [EntryPoint(name, value, "mapsto") for name, value in pairs])


# -- decorators --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "expected"), [("ClipNorm", "clip_norm"), ("EMA", "ema"), ("MLPHead", "mlp_head"), ("halve", "halve"), ("X2", "x2")]
)
def test_snake(name: str, expected: str) -> None:
    assert snake(name) == expected


def test_decorators_register_and_return_the_target_unchanged() -> None:
    class Unchanged:
        def __call__(self, batch: object) -> object:
            return batch

    assert mapsto.transform(Unchanged) is Unchanged
    assert mapsto.transform("other-name")(halve) is halve
    assert mapsto.transform(name="third")(halve) is halve
    assert mapsto.transform()(Doubler) is Doubler
    assert registry.get("transform", "unchanged") is Unchanged
    assert registry.get("transform", "other-name") is registry.get("transform", "third") is halve
    assert registry.get("transform", "doubler") is Doubler
    assert registry.name_of("transform", Unchanged) == "unchanged"
    assert registry.label(Unchanged) == "unchanged"


def test_the_decorator_is_named_and_documented_by_its_kind() -> None:
    assert decorator("loss").__name__ == "loss"  # type: ignore[attr-defined]
    assert "(prediction, target) -> (total, weight)" in str(decorator("loss").__doc__)


def test_what_cannot_be_of_the_kind_is_refused_with_file_line_and_signature() -> None:
    def short(prediction: float) -> float:
        return prediction

    with pytest.raises(RegistryError) as caught:
        mapsto.loss(short)
    text = str(caught.value)
    assert text.startswith(f"{__file__}:")
    assert (
        "short(prediction: 'float') -> 'float' takes 1 positional argument(s) where a loss is given prediction, target" in text
    )
    assert text.endswith("a loss maps (prediction, target) -> (total, weight)")


@pytest.mark.parametrize("name", ["a b", "", "a/b", "a.b", "-a"])
def test_a_name_that_no_path_could_hold_is_refused(name: str) -> None:
    with pytest.raises(RegistryError, match=r"cannot name a transform: letters, digits, '_' and '-' only"):
        registry.register("transform", name, halve)


def test_two_targets_of_one_name_are_refused_with_both_places() -> None:
    mapsto.transform("same")(halve)
    with pytest.raises(RegistryError) as caught:
        mapsto.transform("same")(Doubler)
    text = str(caught.value)
    assert "transform/same is claimed 2 times; uninstall, rename or disable one (MAPSTO_DISABLE=NAME):" in text
    assert reference_of(halve) in text
    assert reference_of(Doubler) in text
    assert text.count(f"from {__file__}:") == 2


def test_a_target_that_is_defined_again_replaces_itself() -> None:
    def make() -> type:
        class Again:
            def __call__(self, batch: object) -> object:
                return batch

        return mapsto.transform(Again)

    first, second = make(), make()
    assert first is not second
    assert registry.get("transform", "again") is second
    assert registry.name_of("transform", first) is None


def test_place_of_something_without_source(tmp_path: Path) -> None:
    assert place_of(len) == "builtins:len"
    changed = tmp_path / "changed.py"
    names: dict[str, Any] = {"__name__": "changed"}
    exec(compile("def f():\n    return 1\n", str(changed), "exec"), names)
    changed.write_text("def f(\n")
    assert place_of(names["f"]) == "changed:f"
    assert reference_of(3) == "?:int"


# -- entry points ------------------------------------------------------------------------------------------------------
def test_listing_a_distribution_imports_nothing_and_getting_imports_it(install: Install) -> None:
    install("plug-one", {"loss/plugged": "plugone:plugged"}, plugone="def plugged(prediction, target): return 1, 1")
    listed = [e for e in registry.entries("loss") if e.name == "plugged"]
    assert [(e.key, e.reference, e.origin) for e in listed] == [("loss/plugged", "plugone:plugged", "plug-one 1.0")]
    assert "plugone" not in sys.modules
    target = registry.get("loss", "plugged")
    assert target(None, None) == (1, 1)
    assert registry.get("loss", "plugged") is target is sys.modules["plugone"].plugged
    assert registry.name_of("loss", target) == "plugged"


def test_listing_is_sorted_by_kind_and_name(install: Install) -> None:
    install("plug-one", {"loss/b": "x:b", "loss/a": "x:a", "source/z": "x:z", "gadget/q": "x:q"})
    keys = [e.key for e in registry.entries() if e.origin == "plug-one 1.0"]
    assert keys == ["source/z", "loss/a", "loss/b", "gadget/q"]


def test_two_distributions_of_one_name(install: Install) -> None:
    code = "def thing(prediction, target): return 1, 1"
    install("plug-one", {"loss/thing": "plugone:thing"}, plugone=code)
    install("plug-two", {"loss/thing": "plugtwo:thing"}, version="2.5", plugtwo=code)
    assert len([e for e in registry.entries("loss") if e.name == "thing"]) == 2
    with pytest.raises(RegistryError) as caught:
        registry.get("loss", "thing")
    text = str(caught.value)
    assert text.startswith("loss/thing is claimed 2 times; uninstall, rename or disable one (MAPSTO_DISABLE=NAME):\n")
    assert "plugone:thing  from plug-one 1.0" in text
    assert "plugtwo:thing  from plug-two 2.5" in text
    assert "plugone" not in sys.modules


def test_a_decorated_name_that_a_distribution_holds(install: Install) -> None:
    install("plug-one", {"transform/halve": "plugone:halve"}, plugone="def halve(batch): return batch")
    with pytest.raises(RegistryError, match=r"(?s)transform/halve is claimed 2 times.*plug-one 1.0.*test_registry.py:\d+"):
        mapsto.transform(halve)


PACKAGE = """
import mapsto

def inner():
    @mapsto.transform("shown")
    def hidden(batch): return batch
    return hidden

shown = inner()
"""


def test_an_entry_point_may_name_a_re_export_of_what_is_decorated(install: Install) -> None:
    install("plug-one", {"transform/shown": "plugone:shown"}, plugone=PACKAGE)
    target = registry.get("transform", "shown")
    assert reference_of(target) == "plugone:inner.<locals>.hidden"
    registry._loaded.clear()
    assert registry.get("transform", "shown") is target
    assert [e.reference for e in registry.entries("transform") if e.name == "shown"] == ["plugone:shown"]


def test_an_entry_point_that_names_another_thing_of_its_package_collides(install: Install) -> None:
    install("plug-one", {"transform/shown": "plugone:other"}, plugone=PACKAGE + "\ndef other(batch): return batch\n")
    __import__("plugone")
    with pytest.raises(RegistryError, match=r"(?s)transform/shown is claimed 2 times.*plugone:other  from plug-one 1.0"):
        registry.get("transform", "shown")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def (", "SyntaxError: "),
        ("", "AttributeError: module 'plugbad' has no attribute 'thing'"),
    ],
)
def test_a_plugin_that_cannot_be_imported(install: Install, source: str, reason: str) -> None:
    install("plug-bad", {"loss/thing": "plugbad:thing"}, plugbad=source)
    with pytest.raises(RegistryError) as caught:
        registry.get("loss", "thing")
    assert str(caught.value).startswith(f"loss/thing of plug-bad 1.0 cannot be imported from plugbad:thing: {reason}")
    assert caught.value.__cause__ is not None


def test_a_plugin_that_lacks_an_extra_says_which(install: Install) -> None:
    source = "from mapsto.core.errors import require\nrequire('not_there_at_all', 'arrow', 'a Parquet source')"
    install("plug-bad", {"source/thing": "plugbad:thing"}, plugbad=source)
    with pytest.raises(MissingExtra, match=r"a Parquet source needs 'not_there_at_all'.*pip install 'mapsto\[arrow\]'"):
        registry.get("source", "thing")


def test_a_plugin_whose_target_is_not_of_its_kind(install: Install) -> None:
    install("plug-bad", {"loss/thing": "plugbad:thing"}, plugbad="def thing(prediction): return 1")
    with pytest.raises(RegistryError, match=r"loss/thing of plug-bad 1.0: plugbad:thing\(prediction\) takes 1 positional"):
        registry.get("loss", "thing")


@pytest.mark.parametrize("name", ["thing", "loss/", "/thing", "loss/a b", "loss/a/b"])
def test_an_entry_point_that_is_not_kind_slash_name(name: str) -> None:
    registry = points((name, "x:y"), ("loss/good", "json:loads"))
    assert [entry.name for entry in registry.entries()] == ["good"]
    with pytest.raises(
        UnknownName, match=r"left out: an unnamed distribution: entry point '.*' of group 'mapsto' must be named"
    ):
        registry.get("loss", "thing")


def test_the_same_entry_read_twice_is_one() -> None:
    assert len(points(("loss/a", "json:loads"), ("loss/a", "json : loads")).entries()) == 1


def test_an_installed_target_without_a_signature_is_let_through() -> None:
    assert points(("source/thing", "builtins:range")).get("source", "thing") is range


def test_a_target_that_cannot_be_called() -> None:
    with pytest.raises(RegistryError, match=r"sys:path\(\.\.\.\) is a list, which cannot be called"):
        points(("source/thing", "sys:path")).get("source", "thing")


# -- look-ups that fail ------------------------------------------------------------------------------------------------
def test_a_failed_look_up_lists_what_exists_and_the_nearest() -> None:
    mine = points(("loss/focal", "x:y"), ("loss/huber", "x:z"))
    with pytest.raises(UnknownName, match=r"there is no loss 'fokal'; allowed: focal, huber; did you mean 'focal'\?"):
        mine.get("loss", "fokal")


def test_a_failed_look_up_says_where_else_the_name_is() -> None:
    mine = points(("loss/focal", "x:y"), ("task/other", "x:z"))
    with pytest.raises(UnknownName, match=r"there is no task 'focal' \('focal' exists as loss/focal\); allowed: other"):
        mine.get("task", "focal")


def test_an_unknown_kind() -> None:
    mine = points(("kind/tokenizer", "x:y"))
    with pytest.raises(UnknownName, match=r"there is no kind 'tokeniser'; .*did you mean 'tokenizer'\?"):
        mine.kind("tokeniser")
    with pytest.raises(UnknownName, match=r"there is no kind 'tokeniser'; .*did you mean 'tokenizer'\?"):
        mine.entries("tokeniser")


# -- kinds of plugins --------------------------------------------------------------------------------------------------
KIND = """
import mapsto

TOKENIZER = mapsto.Kind(name="tokenizer", signature="text -> ids", summary="cuts text", applied=("text",))
"""


def test_a_plugin_brings_its_own_kind(install: Install) -> None:
    install(
        "plug-kind",
        {"kind/tokenizer": "plugkind:TOKENIZER", "tokenizer/words": "plugkind:words"},
        plugkind=KIND + "def words(text, lower=True): return text.split()\n",
    )
    assert registry.kinds()[-1] == "tokenizer"
    assert [e.key for e in registry.entries("tokenizer")] == ["tokenizer/words"]
    assert not any(e.kind == "kind" for e in registry.entries())
    assert "plugkind" not in sys.modules
    assert "tokenizer" not in KINDS
    assert registry.get("tokenizer", "words")("a b") == ["a", "b"]
    assert registry.kind("tokenizer") is KINDS["tokenizer"]
    assert registry.kind_of_parameter("tokenizers") is KINDS["tokenizer"]
    assert decorator("tokenizer")("own")(lambda text: text)


def test_the_kind_of_a_parameter() -> None:
    assert registry.kind_of_parameter("losses") is KINDS["loss"]
    assert registry.kind_of_parameter("transform") is KINDS["transform"]
    assert registry.kind_of_parameter("batch_size") is None


@pytest.mark.parametrize(
    ("value", "what"), [("'text'", "is a str"), ("mapsto.Kind(name='other', signature='', summary='')", "is the kind 'other'")]
)
def test_an_entry_of_the_group_kind_must_name_such_a_kind(install: Install, value: str, what: str) -> None:
    install("plug-kind", {"kind/tokenizer": "plugkind:it"}, plugkind=f"import mapsto\nit = {value}")
    with pytest.raises(
        RegistryError, match=rf"kind/tokenizer of plug-kind 1.0: plugkind:it {what}, and Kind\(name='tokenizer', "
    ):
        registry.kind("tokenizer")


def test_two_distributions_declare_one_kind(install: Install) -> None:
    install("plug-one", {"kind/tokenizer": "plugone:TOKENIZER"}, plugone=KIND)
    install("plug-two", {"kind/tokenizer": "plugtwo:TOKENIZER"}, plugtwo=KIND)
    with pytest.raises(RegistryError, match=r"(?s)kind/tokenizer is claimed 2 times.*plug-one 1.0.*plug-two 1.0"):
        registry.kind("tokenizer")


def test_a_distribution_may_not_redeclare_a_built_in_kind(install: Install) -> None:
    install("plug-one", {"kind/loss": "plugone:LOSS"})
    with pytest.raises(RegistryError, match=r"kind/loss of plug-one 1.0: mapsto has a kind of that name; rename it"):
        registry.kind("loss")


def test_a_kind_is_a_value() -> None:
    assert Kind(name="a", signature="b", summary="c") == Kind(name="a", signature="b", summary="c")


# -- distributions that are disabled -----------------------------------------------------------------------------------
def test_a_disabled_distribution_blocks_nothing(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("plug-one", {"loss/thing": "plugone:thing", "loss/own": "plugone:own"}, plugone="1 / 0")
    install("plug-two", {"loss/thing": "plugtwo:thing"}, plugtwo="def thing(prediction, target): return 1, 1")
    with pytest.raises(RegistryError, match=r"claimed 2 times; uninstall, rename or disable one \(MAPSTO_DISABLE=NAME\)"):
        registry.get("loss", "thing")
    monkeypatch.setenv("MAPSTO_DISABLE", "Plug_One")  # as pip spells names, any spelling is one
    registry.refresh()
    assert registry.get("loss", "thing")(0, 0) == (1, 1)
    assert [entry.key for entry in registry.disabled()] == ["loss/thing", "loss/own"]
    with pytest.raises(
        UnknownName, match=r"there is no loss 'own' \(plug-one 1.0 has it, and MAPSTO_DISABLE leaves that out\)"
    ):
        registry.get("loss", "own")


def test_a_wrong_name_disables_nothing_and_is_told_with_the_nearest(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("plug-one", {"loss/thing": "plugone:thing"}, plugone="def thing(prediction, target): return 1, 1")
    monkeypatch.setenv("MAPSTO_DISABLE", "plug-onr, mapsto")
    registry.refresh()
    wrong, own = registry.misnamed()
    assert wrong.startswith("MAPSTO_DISABLE: no distribution 'plug-onr' registers anything; allowed: ")
    assert wrong.endswith("did you mean 'plug-one'?")
    assert own == "MAPSTO_DISABLE: mapsto's own mappings cannot be disabled"
    assert registry.get("loss", "thing")(0, 0) == (1, 1)
    assert registry.get("optimizer", "adamw")


# -- wings -------------------------------------------------------------------------------------------------------------
WING = """
from mapsto.core.wings import Framework

TOY = Framework(name="toy", packages=("plugtoy",), given={"optimizer": ("sizes", "rate")})

class Layer:
    def __call__(self, x): return x

class Adam:
    def __init__(self, sizes, rate, eps=1e-8): ...
"""


def toy(install: Install, **entries: str) -> None:
    install("plug-toy", {"mapsto.wings": {"toy": "plugtoy:TOY"}, "mapsto.toy": {**entries}}, plugtoy=WING)


def test_a_distribution_brings_a_wing_and_its_own_form_of_a_name(install: Install) -> None:
    toy(install, **{"optimizer/adamw": "plugtoy:Adam"})
    assert registry.wings() == ["torch", "toy"]
    assert [(e.key, e.wing) for e in registry.entries("optimizer") if e.name == "adamw"] == [
        ("optimizer/adamw", "torch"),
        ("optimizer/adamw", "toy"),
    ]
    assert "plugtoy" not in sys.modules
    assert registry.get("optimizer", "adamw", "toy") is sys.modules["plugtoy"].Adam
    assert registry.get("optimizer", "adamw") is registry.get("optimizer", "adamw", "torch") is not sys.modules["plugtoy"].Adam
    assert registry.kind("optimizer", "toy").given == ("sizes", "rate")
    assert registry.kind("optimizer", "torch").given == ("params",)
    assert registry.get("source", "arrays", "toy") is registry.get("source", "arrays")  # the neutral ones serve all
    assert [registry.spelling(e) for e in registry.entries("optimizer", "toy")] == ["toy/optimizer/adamw"]


def test_a_name_of_another_wing_is_told_and_what_this_one_has(install: Install) -> None:
    toy(install, **{"optimizer/own": "plugtoy:Adam"})
    with pytest.raises(
        UnknownName, match=r"there is no optimizer 'adamw' in the wing toy \(the wing torch has it\); allowed: own"
    ):
        registry.get("optimizer", "adamw", "toy")
    with pytest.raises(
        UnknownName, match=r"there is no optimizer 'own' in the wing torch \(the wing toy has it\); allowed: .*adamw"
    ):
        registry.get("optimizer", "own")
    with pytest.raises(UnknownName, match=r"there is no wing 'toi'; allowed: torch, toy; did you mean 'toy'\?"):
        registry.get("optimizer", "own", "toi")


def test_a_neutral_name_and_one_of_a_wing_are_claimed_twice_in_that_wing_alone(install: Install) -> None:
    toy(install, **{"loss/ours": "plugtoy:Layer"})
    install("plug-one", {"loss/mse": "plugone:mse"}, plugone="def mse(prediction, target): return 1, 1")
    with pytest.raises(RegistryError, match=r"(?s)loss/mse is claimed 2 times.*mapsto.torch.losses:mse.*plugone:mse"):
        registry.get("loss", "mse")
    assert registry.get("loss", "mse", "toy")(0, 0) == (1, 1)
    with pytest.raises(RegistryError, match=r"(?s)loss/ours is claimed 2 times.*plugtoy:Layer.*test_registry.py"):
        mapsto.loss("ours")(lambda prediction, target: (1, 1))


def test_what_a_framework_owns_is_registered_in_its_wing(install: Install) -> None:
    toy(install)
    module = __import__("plugtoy")

    class Mine(module.Layer):  # type: ignore[name-defined, misc]
        pass

    assert registry.owner(Mine) == registry.owner(Mine()) == "toy"
    assert registry.owner(halve) is None
    mapsto.layer("mine")(Mine)
    assert registry.get("layer", "mine", "toy") is Mine
    with pytest.raises(UnknownName, match="the wing toy has it"):
        registry.get("layer", "mine", "torch")


def test_a_group_of_a_wing_that_is_not_there_is_left_out_and_told(install: Install) -> None:
    install("plug-one", {"mapsto.trch": {"loss/mse": "plugone:mse"}, "mapsto.wings": {"not/good": "plugone:x"}})
    said = "\n".join(registry.misnamed())
    assert "plug-one 1.0: entry point 'loss/mse' is of group 'mapsto.trch', and there is no wing 'trch'; allowed: torch" in said
    assert "entry point 'not/good' of group 'mapsto.wings' must be named 'NAME'" in said


def test_a_wing_that_cannot_be_used_is_told_when_it_is_asked_for_and_blocks_no_other(install: Install) -> None:
    install("plug-one", {"mapsto.wings": {"odd": "plugone:odd", "bad": "plugone:bad"}}, plugone="odd = 'text'")
    with pytest.raises(RegistryError, match=r"wing odd of plug-one 1.0: plugone:odd is a str, and Framework\(name='odd', "):
        registry.wing("odd")
    with pytest.raises(RegistryError, match=r"cannot be imported from plugone:bad"):
        registry.wing("bad")
    assert [framework.name for framework in registry.frameworks()] == ["torch"]


@pytest.mark.parametrize("said", [{"packages": "toy"}, {"preload": "toy"}, {"given": {"optimizer": "params"}}])
def test_a_text_where_a_wing_names_several_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(RegistryError, match=r"wing 'toy': .* is the text '\w+', and names are wanted: \('\w+',\)"):
        Framework(name="toy", **said)


def test_laws_of_a_kind_that_is_not_there_are_refused() -> None:
    with pytest.raises(UnknownName, match=r"laws of 'layr': there is no such kind; .*did you mean 'layer'"):
        Laws("layr")


def test_a_wing_is_added_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mapsto.core.wings.WINGS", {})
    one = add_wing(Framework(name="one"))
    assert add_wing(one) is one
    with pytest.raises(RegistryError, match="wing 'one' is already declared"):
        add_wing(Framework(name="one", program="other"))
    with pytest.raises(RegistryError, match="a wing is declared by a Framework, not by a str"):
        add_wing("one")  # type: ignore[arg-type]


def test_a_disabled_distribution_brings_no_wing(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(install, **{"optimizer/adamw": "plugtoy:Adam"})
    monkeypatch.setenv("MAPSTO_DISABLE", "plug-toy")
    registry.refresh()
    assert registry.wings() == ["torch"]
    assert [e.key for e in registry.disabled()] == ["wing/toy", "optimizer/adamw"]
    assert registry.misnamed() == []


def test_the_names_of_a_spec_that_says_none_are_those_of_its_wing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WINGS, "toy", Framework(name="toy", defaults={"optimizer": "descent"}))
    spec = mapsto.Spec(model="m", data={}, wing="toy")
    assert (spec.task, spec.optimizer) == (None, mapsto.use("descent"))
    usual = mapsto.Spec(model="m", data={})
    assert (usual.task, usual.optimizer) == (mapsto.use("classification"), mapsto.use("adamw"))
    assert mapsto.Spec.from_yaml(spec.to_yaml()) == spec
    assert mapsto.Spec(model="m", data={}, optimizer=None).optimizer is None


def test_a_program_is_built_by_the_wing_of_its_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    module = types.ModuleType("plugwing")
    module.build = lambda spec, injected: made.append((spec, injected)) or "built"  # type: ignore[attr-defined, func-returns-value]
    monkeypatch.setitem(sys.modules, "plugwing", module)
    monkeypatch.setitem(WINGS, "toy", Framework(name="toy", program="plugwing"))
    spec = mapsto.Spec(model="m", data={}, wing="toy", seed=3)
    assert mapsto.build_program(spec, total_steps=5) == "built"
    assert made == [(spec, {"seed": 3, "total_steps": 5})]
    with pytest.raises(mapsto.SpecError, match="the wing toy builds programs of whole specs only"):
        mapsto.build_program("m", wing="toy")
    with pytest.raises(mapsto.SpecError, match="wing: there is no wing 'toi'; .*did you mean 'toy'"):
        mapsto.build_program("m", wing="toi")
    monkeypatch.setitem(WINGS, "laws", Framework(name="laws"))
    with pytest.raises(mapsto.SpecError, match="wing: laws names no program of its own"):
        mapsto.build_program("m", wing="laws")


def test_two_wings_declare_one_law_and_a_neutral_one_takes_the_name_in_both(install: Install) -> None:
    toy(install, **{"law/toy": "plugtoy:laws"})
    __import__("plugtoy").laws = laws = Laws("layer")
    laws.law("L2", "layout", priority=0, why="It must.", satisfy="Do.", statement="It does.")(lambda trial: None)
    found = all_laws()
    assert {wing for name, wing in found if name == "layer.layout"} == {"torch", "toy"}
    assert find_law("layer.layout", "toy").statement == "It does."
    assert find_law("layer.layout") is not find_law("layer.layout", "toy")
    assert {law.wing for law in all_laws(["toy"]).values()} == {None, "toy"}
    registry.register("law", "again", laws)
    with pytest.raises(RegistryError, match=r"law layer.layout is declared twice: "):
        all_laws(["toy"])


def test_a_spec_resolves_names_in_its_wing(install: Install) -> None:
    toy(install, **{"optimizer/adamw": "plugtoy:Adam", "model/m": "plugtoy:Layer", "task/t": "plugtoy:Layer"})
    data = {"train": {"source": {"use": "arrays", "input": [[0]], "target": [0]}, "batch_size": 1}}
    spec = mapsto.Spec(model="m", task="t", data=data, wing="toy", optimizer=mapsto.use("adamw", eps=1e-3))
    assert spec.check() is spec
    with pytest.raises(mapsto.SpecError, match=r"optimizer.lr: Adam has no argument 'lr'; allowed: eps"):
        spec.override("optimizer.lr=0.1").check()
    with pytest.raises(
        mapsto.SpecError, match=r"middleware.ema: there is no middleware 'ema' in the wing toy \(the wing torch has it"
    ):
        spec.override("middleware=[ema]").check()
    with pytest.raises(mapsto.SpecError, match=r"wing: there is no wing 'toi'; .*did you mean 'toy'"):
        spec.override("wing=toi").check()


def test_what_is_registered_of_ours_is_of_the_wing_whose_room_it_stands_in() -> None:
    own = [e for e in registry.entries() if e.origin.startswith("mapsto ")]
    assert [e.full for e in own if (e.wing == "torch") != e.reference.startswith(("torch.", "mapsto.torch."))] == []


def test_what_a_distribution_says_of_itself_is_read_once() -> None:
    """And not for each of its entry points: it is parsed whole each time that it is asked."""
    read = list[str]()

    class Package:
        name = property(lambda self: read.append("name") or "package")
        version = property(lambda self: read.append("version") or "1.0")

    points = [EntryPoint(f"loss/own_{n}", f"own:{n}", "mapsto")._for(package) for package in [Package()] for n in "abc"]
    assert {e.origin for e in Registry(lambda: points).entries()} == {"package 1.0"}
    assert read == ["name", "version"]
