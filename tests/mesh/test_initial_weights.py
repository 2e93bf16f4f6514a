"""Ranks start from the same weights, however the model lies on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from company import on_ranks
from safetensors.torch import save_file
from saved_runs import net, spec

from mapsto.engine.run import Run


def begun(folder: str, weights: str, mesh: dict[str, int], strict: bool) -> Any:
    """On the leader: the whole weights before the first step and what was told of them."""
    seen: list[Any] = []
    made = spec(steps=1, schedule=None, mesh=mesh, strict=strict, init_from={"path": weights, "except": ["head.bias"]})
    run = Run(
        made, folder, observers=[lambda e: seen.append((e.run.weights(), e.detail["init"])) if e.name == "start" else None]
    )
    return run.fit().steps, seen


@pytest.mark.parametrize(("mesh", "strict"), [({"shard": 2}, False), ({"replicate": 2}, True)])
def test_each_part_of_a_mesh_takes_its_part(tmp_path: Path, mesh: dict[str, int], strict: bool) -> None:
    there = net().state_dict()
    save_file({name: value.clone() for name, value in there.items()}, tmp_path / "w.safetensors")
    (steps, seen), _ = on_ranks(2, begun, str(tmp_path / "run"), str(tmp_path / "w.safetensors"), mesh, strict)
    here, told = seen[0]
    assert steps == 1
    assert told["excluded"] == ["head.bias"]
    assert sorted(told["taken"]) == sorted(set(there) - {"head.bias"})
    equal = {name for name in there if np.array_equal(np.asarray(here[name]), there[name].numpy())}
    assert equal == set(there) - {"head.bias"}
