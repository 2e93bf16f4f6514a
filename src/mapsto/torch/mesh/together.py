"""What does not go together on a mesh, and why: told before a run, and by `mapsto show` where the spec alone says it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...core.errors import ComposeError


@dataclass(frozen=True)
class Refusal:
    """An axis of a mesh, and another axis or a middleware that does not go with it."""

    axis: str
    other: str
    why: str


REFUSALS = (
    Refusal(
        "tensor",
        "compile",
        "compilers do not follow values in parts through attention and embeddings (torch 2.13)",
    ),
    Refusal(
        "pipeline",
        "shard",
        "sharded parameters are gathered when the model is called, and a schedule calls its stages: use pipeline x replicate",
    ),
    Refusal(
        "tensor",
        "turns",
        "what ranks share is made equal over all gradients of the model, of which a turn has some: use replicate or shard",
    ),
    Refusal(
        "pipeline", "turns", "a schedule of stages computes one loss a step, and turns have several: use replicate or shard"
    ),
    Refusal(
        "pipeline",
        "gradient_noise",
        "it draws for one parameter after another, and a stage does not know how many stand before its own",
    ),
)


def refuse(sizes: Mapping[str, int], middleware: Iterable[str] = ()) -> None:
    """Raises ComposeError naming both sides. sizes: of the axes, as far as they are known (-1 is not)."""
    names = {name.partition(".")[0] for name in middleware}
    for refusal in REFUSALS:
        if sizes.get(refusal.axis, 1) > 1 and (sizes.get(refusal.other, 1) > 1 or refusal.other in names):
            raise ComposeError(f"mesh.{refusal.axis} and {refusal.other} do not go together: {refusal.why}")
