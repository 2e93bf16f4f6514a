"""A reader in the place of a DataLoader: Lightning, Accelerate, the Hugging Face Trainer and a loop by hand go on mid-epoch
exactly, which they do not with a DataLoader."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import loops
import pytest
import torch
from loops import Outcome, a_loader

STOP = 6  # in the middle of the second epoch
PACKAGES = ["torch", *(pytest.param(name, marks=pytest.mark.slow) for name in ("accelerate", "lightning", "transformers"))]
pytestmark = pytest.mark.filterwarnings("ignore")  # what the frameworks warn of is theirs


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


class Records(torch.utils.data.Dataset):
    """The same data, record by record."""

    def __len__(self) -> int:
        return loops.RECORDS

    def __getitem__(self, i: int) -> Any:
        return {name: values[i] for name, values in loops.fields().items()}


def a_data_loader() -> Any:
    return torch.utils.data.DataLoader(Records(), 4, shuffle=True, generator=torch.Generator().manual_seed(3))


def interrupted(loop: Any, folder: Path, data: Callable[[], Any]) -> tuple[Outcome, Outcome]:
    """The outcome of a run without interruption, and of one that was stopped and gone on with, each with data made anew."""
    whole = loop(folder / "whole", data())
    first, _ = loop(folder / "run", data(), STOP)
    assert len(first) == STOP
    second, weights = loop(folder / "run", data())
    return whole, (first + second, weights)


def test_a_loop_goes_on_exactly_in_the_middle_of_an_epoch(package: str, tmp_path: Path) -> None:
    (ids, weights), (found, other) = interrupted(loops.LOOPS[package], tmp_path, a_loader)
    assert ids == [a_loader().reader.batch(p)["id"].tolist() for p in range(12)]
    assert found == ids
    assert torch.equal(other, weights)


def test_with_a_data_loader_it_does_not(package: str, tmp_path: Path) -> None:
    """The control: the comparison above tells other batches."""
    (ids, weights), (found, other) = interrupted(loops.LOOPS[package], tmp_path, a_data_loader)
    assert found != ids
    assert not torch.equal(other, weights)


def on_two_ranks(package: str, folder: Path, stop: int, output: Path) -> Outcome:
    """The records that both ranks together were given at each step, and the weights, which are the same on both."""
    output.mkdir()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*torchrun, loops.__file__, package, str(folder), str(stop), str(output)], check=True, timeout=600)
    (ids, weights), (others, same) = (torch.load(output / f"{rank}.pt") for rank in range(2))
    assert torch.equal(weights, same)
    return [a + b for a, b in zip(ids, others, strict=True)], weights


@pytest.mark.slow
@pytest.mark.parametrize("package", ["accelerate", "lightning", "torch", "transformers"])
def test_a_loop_goes_on_on_another_number_of_ranks(package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    loop = loops.LOOPS[package]
    ids, weights = loop(tmp_path / "whole", a_loader())
    wider, _ = loop(tmp_path / "wider", a_loader(), STOP)
    more, at_two = on_two_ranks(package, tmp_path / "wider", 0, tmp_path / "out-wider")
    narrower, _ = on_two_ranks(package, tmp_path / "narrower", STOP, tmp_path / "out-narrower")
    less, at_one = loop(tmp_path / "narrower", a_loader())
    assert wider + more == narrower + less == ids
    torch.testing.assert_close(at_two, weights)
    torch.testing.assert_close(at_one, weights)


def test_the_snippets_of_the_docs_are_python() -> None:
    text = (Path(__file__).parents[2] / "docs" / "kinds" / "reader.md").read_text(encoding="utf-8")
    found = dict(re.findall(r"^```python (\w+)\n(.*?)^```", text, re.M | re.S))
    assert sorted(found) == ["accelerate", "lightning", "transformers"]
    for name, block in found.items():
        compile(block, name, "exec")
