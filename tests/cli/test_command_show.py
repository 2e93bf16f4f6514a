"""`mapsto show`."""

from __future__ import annotations

import pytest

from mapsto import Spec, load_spec

RECIPE = '''
import mapsto
from mapsto import Spec, use
from torch import nn


@mapsto.model
class Shown(nn.Module):
    def __init__(self, width: int):
        raise AssertionError("no model is built for a plan")


@mapsto.middleware(wraps="update", after="clip_norm")
def shown_noise(inner, scale: float = 0.5):
    """Noise within the clipping."""
    return inner


def spec():
    return Spec(
        model=use("shown", width=3),
        data={"train": {"source": {"input": [[1.0]], "target": [0]}, "batch_size": 1}},
        middleware=["shown_noise", use("ema", decay=0.9), use("clip_norm", max_norm=1.0)],
    )
'''


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / f"shown_{tmp_path.name}.py"
    path.write_text(
        RECIPE.replace("shown_noise", f"noise_{tmp_path.name}")
        .replace('"shown"', f'"model_{tmp_path.name}"')
        .replace("@mapsto.model\n", f'@mapsto.model("model_{tmp_path.name}")\n')
    )
    return path


def test_the_plan_says_what_wraps_what_and_why(mapsto, recipe, tmp_path):
    said = mapsto("show", recipe)
    noise = f"noise_{tmp_path.name}"
    assert said.code == 0, said.err
    assert f"update = ema( clip_norm( {noise}( optimizer )))" in said.out
    assert f"{noise} says after='clip_norm'" in said.out
    assert "ema says before='clip_norm'" in said.out


def test_the_parts_and_their_arguments(mapsto, recipe, tmp_path):
    lines = [line.split() for line in mapsto("show", recipe).out.splitlines()]
    assert ["model", f"model/model_{tmp_path.name}", "width=3"] in lines
    assert ["middleware.ema", "middleware/ema", "decay=0.9"] in lines
    assert ["task", "task/classification"] in lines
    assert ["seed", "0"] in lines


def test_overrides_are_shown(mapsto, recipe):
    assert "decay=0.5" in mapsto("show", recipe, "middleware.ema.decay=0.5").out
    said = mapsto("show", recipe, "middleware.ema.decy=0.5")
    assert said.code == 1
    assert "did you mean 'decay'?" in said.err


def test_yaml_is_a_spec_again(mapsto, spec, tmp_path):
    said = mapsto("show", spec, "optimizer.lr=0.25", "--yaml")
    (tmp_path / "again.yaml").write_text(said.out)
    assert load_spec(str(tmp_path / "again.yaml")) == load_spec(str(spec)).override("optimizer.lr=0.25")
    assert isinstance(Spec.from_yaml(said.out), Spec)


def test_a_run_folder_is_a_spec(mapsto, trained):
    assert "optimizer/adamw" in mapsto("show", trained).out


def test_nested_parts_have_rows_of_their_own(mapsto, spec):
    rows = [line.split()[:2] for line in mapsto("show", spec).out.splitlines() if line.startswith("  data.train")]
    assert rows == [
        ["data.train", "reader/batches"],
        ["data.train.source", "source/arrays"],
        ["data.train.transforms.scale", "transform/scale"],
    ]


def test_a_cycle_names_both_sides(mapsto, tmp_path):
    path = tmp_path / f"cycle_{tmp_path.name}.py"
    path.write_text(
        "import mapsto\nfrom mapsto import Spec\n"
        "@mapsto.middleware(wraps='step', before='hen')\ndef egg(inner): return inner\n"
        "@mapsto.middleware(wraps='step', before='egg')\ndef hen(inner): return inner\n"
        "def spec(): return Spec(model='torch.nn:Identity', data={'train': 'builtins:dict'}, middleware=['egg', 'hen'])\n"
    )
    said = mapsto("show", path)
    assert said.code == 1
    assert "egg says before='hen'" in said.err
    assert "hen says before='egg'" in said.err


# -- one mapping -----------------------------------------------------------------------------------------------------------
def test_a_mapping_with_its_options(mapsto):
    said = mapsto("show", "optimizer/adamw")
    assert said.out.startswith("optimizer/adamw  (params -> optimizer)\n")
    assert "mapsto.torch.optimizers:adamw, from mapsto 0.1.0" in said.out
    assert "AdamW (Loshchilov & Hutter 2019)" in said.out
    assert "optimizers.py:" in said.out
    rows = [line.split() for line in said.out.splitlines()]
    assert ["lr", "float", "0.001"] in rows
    assert not any(row[:1] == ["params"] for row in rows)  # given by the run, not stated in a spec


def test_a_name_alone_is_enough_where_one_kind_has_it(mapsto):
    assert mapsto("show", "adamw").out == mapsto("show", "optimizer/adamw").out


def test_what_must_be_stated_and_what_takes_a_mapping(mapsto):
    said = mapsto("show", "loss/mean_of").out
    rows = [line.split() for line in said.splitlines()]
    assert ["loss", "a", "loss", "required"] in rows
    assert "in a spec: {use: mean_of, loss: ..., weight: ...}" in said


def test_a_long_text_is_cut_and_says_where_the_rest_is(mapsto):
    said = mapsto("show", "optimizer/adagrad").out
    assert "python -m pydoc torch.optim" in said
    assert "options" in said


def test_a_mapping_of_a_recipe(mapsto, recipe, tmp_path):
    said = mapsto("show", f"noise_{tmp_path.name}", "--import", recipe)
    assert said.code == 0, said.err
    assert "Noise within the clipping." in said.out
    assert ["scale", "float", "0.5"] in [line.split() for line in said.out.splitlines()]
    assert f"{recipe}:" in said.out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("optimizer/adamx", "did you mean 'adamax'?"),
        ("adamx", "did you mean 'adamax'?"),
        ("zzzzqqq", "see them with: mapsto list"),
        ("nothing.yaml", "there is no spec file nothing.yaml"),
        ("no_such_package.module:spec", "no module named 'no_such_package'"),
    ],
)
def test_a_wrong_name(mapsto, text, told):
    said = mapsto("show", text)
    assert said.code == 1
    assert told in said.err


def test_a_name_of_two_kinds(mapsto, tmp_path):
    path = tmp_path / f"twice_{tmp_path.name}.py"
    path.write_text(
        "import mapsto\n@mapsto.loss('twice')\ndef one(prediction, target): return prediction.sum(), 1\n"
        "@mapsto.transform('twice')\ndef two(batch): return batch\n"
    )
    said = mapsto("show", "twice", "--import", path)
    assert said.code == 1
    assert "say one of transform/twice, loss/twice" in said.err
    assert mapsto("show", "loss/twice").code == 0
