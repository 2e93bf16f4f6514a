"""Starting from the weights of another run, or of a file: what fits is taken, and what does not is told."""

from __future__ import annotations

import shutil

import pytest
import torch
from runs import fit, trajectory
from safetensors.torch import save_file
from torch import nn
from torch_runs import net, torch_spec

import mapsto
from mapsto.core.errors import CheckpointError, SpecError
from mapsto.core.initial import initial
from mapsto.engine.checkpoints.manifest import read_manifest
from mapsto.engine.folder import RunFolder
from mapsto.engine.run import Run


def spec(init_from=None, **changes):
    return torch_spec(
        **{
            "steps": 1,
            "middleware": [],
            "schedule": None,
            "checkpoint": {"every": 1, "best": 0},
            "init_from": init_from,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A run of two steps; the weights that it came to."""
    folder = tmp_path_factory.mktemp("base") / "run"
    run, _ = fit(spec(steps=2, seed=1, checkpoint={"every": 1, "best": 0, "keep": None}), folder)
    return folder, {name: value.clone() for name, value in run.program.model.state_dict().items()}


def begun(folder, made):
    """The weights of a run before its first step, and what it tells of them."""
    seen = []
    Run(
        made, folder, observers=[lambda e: seen.append((e.run.weights(), e.detail["init"])) if e.name == "start" else None]
    ).fit()
    return {name: torch.as_tensor(value) for name, value in seen[0][0].items()}, seen[0][1]


def same(weights, other, *names):
    return all(torch.equal(weights[name], other[name]) for name in names)


def test_all_the_weights_of_a_run_and_the_buffers_too(base, tmp_path):
    folder, there = base
    here, told = begun(tmp_path / "run", spec(str(folder)))
    assert same(here, there, *there)
    assert (told["taken"], told["missing"], told["unused"]) == (list(there), [], [])
    fresh = Run(spec(), tmp_path / "other").program.model.state_dict()
    assert not same(fresh, there, "0.weight")  # the control
    manifest = read_manifest(tmp_path / "run/checkpoints/step-00000001")
    assert manifest["init"] == told == RunFolder(tmp_path / "run").environment()["init"]
    assert manifest["identity"]["init_from"] == {"path": str(folder)}


def test_a_resume_does_not_take_them_again(base, tmp_path):
    made = spec(str(base[0]), steps=3, checkpoint={"every": 1, "best": 0, "keep": None})
    fit(made, tmp_path / "whole")
    stop = [lambda e: e.run.ask_to_stop("enough") if e.name == "checkpoint" and e.step == 1 else None]
    copied = shutil.copytree(base[0], tmp_path / "base")
    fit(
        spec(str(copied), steps=3, checkpoint={"every": 1, "best": 0, "keep": None}),
        tmp_path / "run",
        observers=stop,
    )
    first = read_manifest(tmp_path / "run/checkpoints/step-00000001")["init"]
    shutil.rmtree(copied)  # nobody needs it any more
    Run.resume(tmp_path / "run").fit()
    assert trajectory(tmp_path / "run", 3, "torch") == trajectory(tmp_path / "whole", 3, "torch")
    assert read_manifest(tmp_path / "run/checkpoints/step-00000003")["init"] == first
    Run.resume(tmp_path / "run").evaluate("valid")
    with pytest.raises(SpecError, match="a resumed run keeps its trajectory"):
        Run.resume(tmp_path / "run", f"init_from={base[0]}")


def test_which_checkpoint(base, tmp_path):
    folder, there = base
    one, _ = begun(tmp_path / "one", spec(f"{folder}@1"))
    two, _ = begun(tmp_path / "two", spec(str(folder / "checkpoints/step-00000002")))
    assert same(two, there, "0.weight")
    assert not same(one, there, "0.weight")
    with pytest.raises(CheckpointError, match="keeps no best checkpoint"):
        Run(spec(f"{folder}@best"), tmp_path / "run").fit()


def test_only_and_except_are_patterns_of_names(base, tmp_path):
    folder, there = base
    here, told = begun(tmp_path / "run", spec({"path": str(folder), "only": ["0", "4.*"], "except": ["4.bias"]}))
    assert told["taken"] == ["0.weight", "0.bias", "4.weight"]
    assert "4.bias" in told["excluded"]
    assert "1.weight" in told["excluded"]
    assert same(here, there, *told["taken"])
    assert not same(here, there, "4.bias")
    with pytest.raises(SpecError, match=r"init_from\.only: nothing in the model matches '0\.wight'; nearest is '0\.weight'"):
        Run(spec({"path": str(folder), "only": ["0.wight"]}), tmp_path / "other").fit()


def test_what_does_not_fit_is_left_as_it_was_made_and_told(base, tmp_path):
    folder, there = base
    wider = spec({"path": str(folder)}, model={"use": "test_init_from:renamed"})
    here, told = begun(tmp_path / "run", wider)
    assert told["taken"] == ["0.weight", "0.bias"]
    assert told["misfits"] == ["4.weight: [3, 8] there, [5, 8] here", "4.bias: [3] there, [5] here"]
    assert "norm.weight" in told["missing"]
    assert "1.weight" in told["unused"]
    assert same(here, there, "0.weight")


def renamed():
    made = net()
    own = nn.Sequential()
    for name, part in (("0", made[0]), ("norm", made[1]), ("2", made[2]), ("3", made[3]), ("4", nn.Linear(8, 5))):
        own.add_module(name, part)
    return own


def test_nothing_that_fits_is_an_error_before_there_is_a_run(base, tmp_path):
    save_file({"elsewhere.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(
        SpecError, match=r"nothing of the 1 tensors of .*other\.safetensors fits the model: 0\.weight: nearest is"
    ):
        Run(spec(str(tmp_path / "other.safetensors")), tmp_path / "run").fit()
    assert RunFolder(tmp_path / "run").is_empty()


@pytest.mark.parametrize(
    "nest", [lambda t: t, lambda t: {"state_dict": t, "epoch": 3}, lambda t: {f"module.{n}": v for n, v in t.items()}]
)
def test_files_of_torch_and_of_safetensors(base, tmp_path, nest):
    there = base[1]
    torch.save(nest(there), tmp_path / "w.pt")
    here, told = begun(tmp_path / "run", spec(str(tmp_path / "w.pt")))
    assert same(here, there, *there)
    assert told["prefix"] in ("", "module.")
    save_file({n: t for n, t in there.items() if n.startswith("0.")}, tmp_path / "w.safetensors")
    _, told = begun(tmp_path / "second", spec(str(tmp_path / "w.safetensors")))
    assert told["taken"] == ["0.weight", "0.bias"]


class Trap:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_file_that_would_run_code_is_refused_in_a_line(tmp_path, capsys):
    torch.save({"weight": torch.zeros(1), "more": Trap()}, tmp_path / "w.pt")
    with pytest.raises(
        CheckpointError,
        match=r"w\.pt holds more than weights, and reading it would run code: \S*print; save its state_dict alone",
    ):
        Run(spec(str(tmp_path / "w.pt")), tmp_path / "run").fit()
    assert "must not run" not in capsys.readouterr().out
    (tmp_path / "w.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (tmp_path / "torn.pt").write_bytes(b"PK torn")
    (tmp_path / "number.pt").unlink(missing_ok=True)
    torch.save(3, tmp_path / "number.pt")
    torch.save({"0.weight": torch.zeros(2, 2).to_sparse()}, tmp_path / "sparse.pt")
    torch.save({"0.weight": torch.empty(2, 2, device="meta")}, tmp_path / "meta.pt")
    (tmp_path / "text.pt").write_text("no weights")
    for name, said in (
        ("torn.pt", "torn.pt"),
        ("sparse.pt", "the tensor '0.weight' is not dense"),
        ("meta.pt", "the tensor '0.weight' is without data"),
        ("text.pt", "is no file of weights alone"),
        ("number.pt", "holds no named tensors, but a int"),
        ("w.safetensors", "nothing of the 0"),
    ):
        with pytest.raises((CheckpointError, SpecError), match=said):
            Run(spec(str(tmp_path / name)), tmp_path / "run").fit()
    with pytest.raises(SpecError, match=r"there is no run or file .*number\.pth; .*did you mean 'number\.pt'"):
        Run(spec(str(tmp_path / "number.pth")), tmp_path / "run").fit()


@mapsto.middleware
class Doubled:
    """Middleware that changes weights as it finds them, and adds one of its own."""

    def setup(self, builder):
        with torch.no_grad():
            builder.model[0].weight.mul_(2)
        builder.model.register_parameter("added", nn.Parameter(torch.zeros(2)))


def test_middleware_that_changes_the_model_finds_the_weights_that_were_taken(base, tmp_path):
    folder, there = base
    more = {"middleware": [{"use": "test_init_from:Doubled"}, {"use": "ema", "decay": 0.5}]}
    save_file({**there, "added": torch.ones(2)}, tmp_path / "w.safetensors")
    here, told = begun(tmp_path / "run", spec(str(tmp_path / "w.safetensors"), **more))
    assert torch.equal(here["0.weight"], there["0.weight"] * 2)
    assert torch.equal(here["added"], torch.ones(2))
    assert told["unused"] == told["missing"] == []
    run = Run(spec(str(folder), **more), tmp_path / "second")
    with run.program.evaluating() as state:  # the average begins at what was taken, not at what was drawn
        assert torch.equal(state.model.state_dict()["4.weight"], there["4.weight"])


def test_the_one_form_of_what_a_spec_states(tmp_path):
    assert initial("runs/a@best") == {"path": "runs/a", "checkpoint": "best"}
    (tmp_path / "a@b").mkdir()
    assert initial(str(tmp_path / "a@b")) == {"path": str(tmp_path / "a@b")}
    assert initial({"path": "x", "only": "a"}) == {"path": "x", "only": ("a",)}
    made = spec({"path": "x", "except": ["a"]})
    assert mapsto.Spec.from_yaml(made.to_yaml()).init_from == made.init_from
    for wrong, said in (
        (3, "names no path"),
        ({"path": "x", "onyl": 1}, "init_from.onyl: unknown key.*'only'"),
        ({"path": ""}, "path"),
        ({"path": "x", "only": [1]}, "init_from.only: .* is not a list of patterns"),
        ({"path": "x", "checkpoint": 1.5}, "checkpoint"),
    ):
        with pytest.raises(SpecError, match=said):
            spec(wrong)
