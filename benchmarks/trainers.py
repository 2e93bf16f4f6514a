"""Which laws of trainings four ways to train keep: `python benchmarks/trainers.py` writes docs/trainers.md."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from pathlib import Path

from mapsto.core.laws import Verdict, laws_for
from mapsto.testing import judge_law

ROOT = Path(__file__).parents[1]
TRAINERS = {
    "plain_torch": ("a loop by hand", "torch"),
    "transformers_trainer": ("`Trainer`, `GPT2LMHeadModel`", "transformers"),
    "accelerate_loop": ("the loop of its quick tour", "accelerate"),
    "lightning_trainer": ("`LightningModule` and `Trainer`", "lightning"),
}
SEEDS = (0, 1, 2)
HEAD = """\
# Trainers and the laws they keep

What four ways to train keep of the [laws of trainings](laws.md#training), each behind one function of
[examples/trainers](../examples/trainers): [how](check.md#a-trainer-that-one-did-not-write). Written by
`python benchmarks/trainers.py`, on the CPU, seeds 0, 1 and 2; a law is kept where it is with all three. To
see a witness: `mapsto check examples/trainers/lightning_trainer.py:train`.

Accelerate and Lightning run at their defaults with a loss that is a mean over the tokens of a micro-batch, as tutorials have
it; transformers has its model's own loss, and the loop by hand divides by the tokens of the whole batch. What is judged is this
whole, not the library alone: a loss by sums, or a loader with a state, is the user's to write where a library leaves
it to them, and would be another row.
"""


def _verdicts(name: str, law: str) -> list[Verdict]:
    return [judge_law(f"examples/trainers/{name}.py:train", law, kind="training", seed=seed) for seed in SEEDS]


def main() -> None:
    laws = [law.name for law in laws_for("training", priority=2)]
    found = {name: {law: _verdicts(name, law) for law in laws} for name in TRAINERS}
    lines = [
        HEAD,
        "| law | " + " | ".join(f"{package} {version(package)}: {said}" for said, package in TRAINERS.values()) + " |",
    ]
    lines.append("|---" * (len(TRAINERS) + 1) + "|")
    for law in laws:
        cells = [", ".join(sorted({v.status for v in found[name][law]})) for name in TRAINERS]
        lines.append(f"| `{law.partition('.')[2]}` | " + " | ".join(cells) + " |")
    lines.append("\n## What was found where one is not kept\n")
    for name, (_, package) in TRAINERS.items():
        for law in laws:
            broken = next((v for v in found[name][law] if v.status != "pass"), None)
            if broken is not None:
                cause = f" ({broken.witness.cause})" if broken.witness and broken.witness.cause else ""
                lines.append(f"* {package}, `{law.partition('.')[2]}`, seed {broken.seed}: {broken.reason}{cause}.")
    (ROOT / "docs" / "trainers.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
