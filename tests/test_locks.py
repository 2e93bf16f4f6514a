"""The locks beside the extras: every package by name, version and hash, within the ranges of pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def locked(extra: str) -> dict[str, str]:
    """Version by name."""
    return dict(re.findall(r"^([\w.-]+)==([\w.+!-]+)", (ROOT / "locks" / f"{extra}.txt").read_text(), re.MULTILINE))


def asked(extra: str) -> list[Requirement]:
    """What an extra asks for, with that of the extras it names."""
    found = []
    for line in EXTRAS[extra]:
        requirement = Requirement(line)
        if requirement.name == "mapsto":
            found += [inner for name in sorted(requirement.extras) for inner in asked(name)]
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize("extra", ["test", "bench"])
def test_what_an_extra_asks_for_is_locked_within_its_range(extra: str) -> None:
    versions = locked(extra)
    missing = [
        str(r) for r in asked(extra) if r.name != "torch" and versions.get(canonicalize_name(r.name), "") not in r.specifier
    ]
    assert missing == [], "write the locks anew: make lock"


@pytest.mark.parametrize("extra", ["test", "bench"])
def test_every_package_has_hashes_and_no_address(extra: str) -> None:
    text = (ROOT / "locks" / f"{extra}.txt").read_text()
    packages = re.split(r"\n(?=\S)", text.strip())
    assert [p.splitlines()[0] for p in packages if "--hash=sha256:" not in p] == []
    assert "://" not in text
    assert "index-url" not in text


def test_both_locks_agree_and_leave_out_the_build_of_torch() -> None:
    tests, benchmarks = locked("test"), locked("bench")
    assert {name: version for name, version in tests.items() if benchmarks.get(name) != version} == {}
    assert [name for name in benchmarks if name == "torch" or name.startswith("nvidia-")] == []


def test_releases_that_are_known_to_be_bad_are_refused() -> None:
    """Two releases of lightning stole credentials when they were imported."""
    ranges = [r.specifier for extra in EXTRAS for r in asked(extra) if r.name == "lightning"]
    assert ranges
    assert not any(bad in allowed for allowed in ranges for bad in ("2.6.2", "2.6.3"))
    assert "2.6.6" in ranges[0]
