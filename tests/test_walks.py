"""How many files a reader opens to follow one case through the calls: what a change makes longer is seen here."""

from __future__ import annotations

from tests import forked, walks

from mapsto.processes.forks import ForkServer

LONGEST = {"spec to program": 11, "checkpoint": 9}


def test_no_walk_is_longer_than_it_was(loaded: ForkServer) -> None:
    done = forked.run(loaded, "-m", "tests.walks")
    found = {line.split(": ")[0]: line.split(": ")[2].split(", ") for line in done.stdout.splitlines()}
    assert found.keys() == LONGEST.keys(), done.stderr
    assert {name: files for name, files in found.items() if len(files) > LONGEST[name]} == {}
    assert {"core/spec", "core/parts", "torch/build", "torch/program"} <= set(found["spec to program"])
    assert {"engine/loop", "engine/checkpoints/tree", "torch/saving"} <= set(found["checkpoint"])


def test_a_walk_counts_what_hands_on_and_leaves_out_what_is_short_and_calls_nothing() -> None:
    walk = walks.Walk()
    walk.run(lambda: walks.mapsto.Spec.from_yaml(walks.SPEC))
    assert walk.files()[:2] == ["core/spec", "core/yaml_text"]
    assert "core/shown" in walk.lines or "core/initial" in walk.lines
    assert "core/initial" not in walk.files()
