"""What each kind of mesh keeps of one process, measured on real ranks: `python -m tests.mesh.law_table > docs/meshes.md`.

Every cell is the largest error that was found over all ranks, relative to the largest element of what one process has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import served_programs
import strict_programs
from company import on_ranks
from mesh_programs import steps
from tests.mesh.errors import error

from mapsto import use

CLIP = use("clip_norm", max_norm=0.05)
MESHES: dict[str, tuple[int, dict[str, Any]]] = {
    "replicate 2": (2, {"replicate": 2}),
    "replicate 3": (3, {"replicate": 3}),
    "replicate 4": (4, {"replicate": 4}),
    "shard 2": (2, {"shard": 2}),
    "shard 3": (3, {"shard": 3}),
    "shard 4": (4, {"shard": 4}),
    "replicate 2 x shard 2": (4, {"replicate": 2, "shard": 2}),
    "tensor 2": (2, {"tensor": 2}),
    "shard 2 x tensor 2": (4, {"shard": 2, "tensor": 2}),
    "replicate 2 x tensor 2": (4, {"replicate": 2, "tensor": 2}),
    "pipeline 2": (2, {"pipeline": 2}),
    "replicate 2 x pipeline 2": (4, {"replicate": 2, "pipeline": 2}),
}
SERVED: dict[str, dict[str, Any]] = {"servers 2, workers 2": {"servers": 2, "workers": 2}}
STRICT: dict[str, tuple[int, dict[str, Any] | None]] = {
    "one process": (1, None),
    **{f"{axis} {n}": (n, {axis: n}) for axis in ("replicate", "shard") for n in (2, 3, 4, 8)},
    "replicate 2 x shard 2": (4, {"replicate": 2, "shard": 2}),
    "replicate 2 x shard 4": (8, {"replicate": 2, "shard": 4}),
}
EXACT: dict[str, dict[str, Any]] = {
    "dropout, AdamW, clipping, average": strict_programs.USUAL,
    "7 micro-shards, NAdam": {"micro_shards": 7, "optimizer": use("nadam", lr=1e-2)},
    "3 records a batch": {"batch": 3},
    "sharpness-aware, clipping": {
        "optimizer": use("sgd", lr=0.1, momentum=0.9, nesterov=True),
        "middleware": [use("sam", rho=0.1), use("clip_norm", max_norm=0.3)],
    },
}
LAWS: dict[str, tuple[str, dict[str, Any], str]] = {
    "gradient, float64": ("S1", {"model": "words"}, "gradients"),
    "3 SGD steps, float64": ("S1", {"model": "words"}, "weights"),
    "3 AdamW steps, float64": ("S1", {"model": "words", "optimizer": use("adamw", lr=1e-2)}, "weights"),
    "gradient, float32": ("S1", {"model": "words", "dtype": "float32", "steps": 1}, "gradients"),
    "accumulated in 3": ("S1", {"model": "words", "middleware": [use("accumulate", steps=3)]}, "gradients"),
    "2 records a batch": ("S3", {"batch": 2}, "weights"),
    "clipped, norm": ("S4", {"model": "words", "middleware": [CLIP]}, "metrics"),
    "clipped, weights": ("S4", {"model": "words", "middleware": [CLIP]}, "weights"),
    "sharpness-aware": ("S1", {"middleware": [use("sam", rho=0.1)]}, "weights"),
    "averages (EMA)": ("S1", {"middleware": [use("ema", decay=0.5)]}, "evaluation"),
    "unused parameters": ("S1", {"model": "gated"}, "weights"),
    "evaluation": ("S6", {"model": "words"}, "evaluation"),
}
BOUND = {"gradient, float32": 1e-6, "3 AdamW steps, float64": 1e-9}


INTRODUCTION = """\
Made by `make meshes` (`python -m tests.mesh.law_table`), on gloo ranks and Ray actors of one machine. A cell is the largest
error over all ranks and parameters, relative to the largest element of what one process has, for the same 13 records a step (2
where it says so) in unequal parts, tokens of unequal count among them; bold where the bound is not kept. Bounds: 1e-12 (float64
gradients and SGD), 1e-9 (AdamW, metrics), 1e-6 (float32). Behind a law's name stands its number; `mapsto check` judges a spec
of your own by the same laws.
"""
STRICTLY = """\
## Strict mode: the same bits

With `strict: true` what is left after four steps does not depend on the ranks at all. A cell is the beginning of the SHA-256 of
all weights, the same on every rank; down a column it must not change (bold where it does). Tokens are of unequal count.
"""


def each(cases: dict[str, dict[str, Any]], steps: Callable[[str, dict[str, Any]], Any]) -> dict[str, Any]:
    """What becomes of each case; what is refused in words."""
    from mapsto.core.errors import MapstoError

    found: dict[str, Any] = {}
    for name, case in cases.items():
        try:
            found[name] = steps(name, case)
        except MapstoError as refusal:
            found[name] = f"refused: {refusal}"
    return found


def run(cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The cases on a rank."""
    return each(cases, lambda _, case: steps(case))


def on_servers(cases: dict[str, dict[str, Any]], mesh: dict[str, Any]) -> dict[str, Any]:
    """The cases on a parameter server, in one Ray cluster."""
    import ray

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        return each(cases, lambda name, case: served_programs.steps(case, gradients=LAWS[name][2] == "gradients", **mesh))
    finally:
        ray.shutdown()


def column(world: int, mesh: dict[str, Any], alone: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    """A mesh's cells by law, and what there is to say of them; a world of 0 has servers instead of ranks."""
    unused = {"unused_parameters": True} if world else {}
    cases = {n: {**c, "mesh": {**mesh, **(unused if "unused" in n else {})}} for n, (_, c, _) in LAWS.items()}
    cells, notes = {}, []
    try:
        ranks = on_ranks(world, run, cases, limit=240) if world else [on_servers(cases, mesh)]
    except AssertionError as broken:
        return dict.fromkeys(LAWS, "broke"), [str(broken).splitlines()[0]]
    for name, (_, _, what) in LAWS.items():
        told = [rank[name] for rank in ranks]
        if any(isinstance(t, str) for t in told):
            cells[name] = "refused"
            notes.append(f"{name}: {next(t for t in told if isinstance(t, str))}")
            continue
        worst = max(error(t[what], alone[name][what]) for t in (_held(told) if what == "gradients" else told))
        bound = BOUND.get(name, 1e-9 if what in ("metrics", "evaluation") else 1e-12)
        cells[name] = f"{worst:.0e}" if worst <= bound else f"**{worst:.0e}**"
    return cells, notes


def _held(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ranks' gradients, where a rank has none of a parameter (it is another stage's) with those of the first that has."""
    held: dict[str, Any] = {}
    for rank in told:
        for name, gradient in rank["gradients"].items():
            if held.get(name) is None:
                held[name] = gradient
    return [
        {"gradients": {n: g if r["gradients"].get(n) is None else r["gradients"][n] for n, g in held.items()}} for r in told
    ]


def main() -> None:
    alone = {name: steps(case) for name, (_, case, _) in LAWS.items()}
    print("# What each mesh keeps of one process\n")
    print(INTRODUCTION)
    print("| mesh | " + " | ".join(f"{name} ({law})" for name, (law, _, _) in LAWS.items()) + " |")
    print("|---" * (len(LAWS) + 1) + "|")
    told: dict[str, list[str]] = {}
    for name, (world, mesh) in {**MESHES, **{n: (0, mesh) for n, mesh in SERVED.items()}}.items():
        cells, notes = column(world, mesh, alone)
        print(f"| {name} | " + " | ".join(cells[law] for law in LAWS) + " |", flush=True)
        for note in notes:
            told.setdefault(note, []).append(name)
    if told:
        print("\nRefused before the first step:\n")
        for note, names in told.items():
            print(f"- {', '.join(names)}: {note}")
    strict()


def strict() -> None:
    """The table of strict mode."""
    print(f"\n{STRICTLY}")
    print("| mesh | " + " | ".join(EXACT) + " |")
    print("|---" * (len(EXACT) + 1) + "|")
    wanted: dict[str, str] = {}
    for name, (world, mesh) in STRICT.items():
        cases = {law: {**case, "mesh": mesh} for law, case in EXACT.items()}
        ranks = on_ranks(world, strict_programs.all_hashes, cases, limit=300)
        found = {law: {rank[law]["weights"][-1] for rank in ranks} for law in EXACT}
        wanted = wanted or {law: min(hashes) for law, hashes in found.items()}
        cells = [" ".join(h[:12] for h in found[law]) if found[law] == {wanted[law]} else f"**{found[law]}**" for law in EXACT]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
