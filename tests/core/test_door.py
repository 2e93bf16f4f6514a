"""The one door: what `import mapsto` gives, and what it does not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mapsto

HEAVY = (
    "torch",
    "jax",
    "flax",
    "tensorflow",
    "keras",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "sklearn",
    "matplotlib",
    "PIL",
    "transformers",
)


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `code`."""
    script = f"{code}\nimport sys\nprint(' '.join(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    return set(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import mapsto",
        "import mapsto; mapsto.registry.entries(); mapsto.registry.kinds()",
        "import mapsto\ns = mapsto.Spec(model='m', data={'train': {'source': 'x'}})\n"
        "mapsto.Spec.from_yaml(s.to_yaml()).override('seed=1')",
        "import mapsto\n@mapsto.middleware\nclass Mine:\n    def step(self, inner): return inner\n"
        "from mapsto.core.plan import plan, render\nrender(plan([Mine]))",
        "import mapsto; mapsto.derive(1, 'a')",
    ],
)
def test_no_framework_is_loaded(code: str) -> None:
    assert not loaded_by(code) & set(HEAVY)


def test_the_check_would_see_a_framework() -> None:
    assert "numpy" in loaded_by("import mapsto; mapsto.generator(1)")


def test_every_public_name_is_there_and_documented() -> None:
    assert sorted(mapsto.__all__) == mapsto.__all__
    for name in mapsto.__all__:
        if name in mapsto._LAZY:
            continue
        assert getattr(mapsto, name).__doc__, name


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'mapsto' has no attribute 'optimiser'; did you mean 'optimizer'?"):
        _ = mapsto.optimiser  # type: ignore[attr-defined]
    assert {"Run", "build_program", *mapsto.__all__} <= set(dir(mapsto))


TYPED = """
import mapsto
from mapsto import Event, LaunchError, Run, RunView, Spec
from mapsto.data import PaddingBatch, check_indices
from mapsto.testing import Laws, Trial
from mapsto.torch import Batch, Grad, Loss, Metrics, OneProcess, State, Step, Update

@mapsto.middleware(wraps="update")
def plain(inner: Update) -> Update:
    def update(state: State, metrics: Metrics) -> Metrics:
        return inner(state, metrics)
    return update

run = Run(Spec(model="m", data={}))
run.program.model.eval()
with Run.resume("folder").trained("best") as trained:
    trained.model.eval()
"""
WRONG = {
    "mapsto.midleware": 'Module has no attribute "midleware"',
    "mapsto.buld_program(1)": 'Module has no attribute "buld_program"',
    "from mapsto import Sepc": 'Module "mapsto" has no attribute "Sepc"',
    "run.program.modle": '"Program" has no attribute "modle"',
}


@pytest.mark.slow
def test_a_strict_type_checker_sees_the_door(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    (tmp_path / "user.py").write_text(TYPED + "\n".join(WRONG) + "\n")
    said, _, _ = api.run(["--strict", "--cache-dir", str(Path(__file__).parents[2] / ".mypy_cache"), str(tmp_path / "user.py")])
    errors = [line for line in said.splitlines() if ": error: " in line]
    first = 1 + TYPED.count("\n")
    for number, (code, message) in enumerate(WRONG.items()):
        assert message in errors[number], code
        assert f":{first + number}: " in errors[number]
    assert len(errors) == len(WRONG), said


if TYPE_CHECKING:  # what is decorated keeps its type: a strict type checker reads these

    @mapsto.layer
    class Layer:
        def __init__(self, width: int) -> None: ...

    @mapsto.loss("named")
    def named(prediction: float, target: float) -> tuple[float, float]: ...

    @mapsto.middleware(wraps="step", before="x")
    def wraps(inner: int, limit: float = 1.0) -> int: ...

    @mapsto.middleware
    class Wraps:
        def step(self, inner: int) -> int: ...

    _layer: Layer = Layer(3)
    _pair: tuple[float, float] = named(1.0, 2.0)
    _int: int = wraps(1, limit=2.0)
    _wraps: Wraps = Wraps()


def test_a_name_from_before_is_still_there_and_says_what_it_is_called_now():
    with pytest.warns(DeprecationWarning, match="is called PaddingBatch now"):
        from mapsto.data import StandIn
    assert StandIn is mapsto.data.PaddingBatch
