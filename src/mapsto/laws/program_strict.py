"""The law of strict mode on two ranks: replicated or sharded, the weights are bitwise those of one process."""

from __future__ import annotations

from typing import Any

from ..core.errors import ComposeError, SpecError
from ..core.laws import Laws, Trial
from ..data.stream import size
from .compare import Array, differs, same
from .drivers import ProgramDriver, RankedProgram
from .program_inputs import STEPS, own, reader_of, spec_of
from .program_mesh import PATIENCE

laws = Laws("program", driver=ProgramDriver)
MICRO_SHARDS = 4


def _made(trial: Trial, axes: dict[str, int] | None, *, strict: bool = True) -> tuple[RankedProgram, Any]:
    """The program of the spec on a mesh (None: on this process alone) with 4 micro-shards, and its training reader."""
    driver: ProgramDriver = trial.driver
    spec = spec_of(trial)
    options: dict[str, Any] = {"axes": axes, "micro_shards": MICRO_SHARDS, "strict": strict, "exact": False}
    with trial.component("building the program"):
        reader = reader_of(spec)
        try:
            return driver.build(trial, spec, reader, **options), reader
        except (SpecError, ComposeError) as error:
            if "strict" in str(error):
                trial.skip(f"strict mode refuses it: {error}")
            raise


def _stepped(trial: Trial, program: RankedProgram, reader: Any) -> list[dict[str, Array]]:
    """The weights after each of a few steps."""
    found = []
    for step in range(STEPS):
        with trial.component("a step"):
            program.step(own(program, reader, step))
        found.append(program.parameters())
    return found


def _gradients(program: RankedProgram) -> dict[str, Array]:
    """The gradients of the last step, those there are."""
    return {name: g for name, g in program.gradients().items() if g is not None}


@laws.law(
    "S1d",
    "strict_ranks",
    priority=1,
    tolerance="T0",
    ranks=2,
    seconds=180,
    why="Where the last bit depends on the number of ranks, a run that lost a machine cannot be told from one with a bug.",
    satisfy="Ask state.mesh.norm and state.mesh.whole for what concerns more than this rank's part, instead of adding up over "
    "ranks yourself; keep no state from one micro-shard to the next.",
    catches=("a norm that ranks add up in their own order", "a running value over the micro-shards that a rank has seen"),
)
def strict_ranks(trial: Trial) -> None:
    """With strict: true, weights after three updates on {replicate: 2} and on {shard: 2} are bitwise those of one process."""
    driver: ProgramDriver = trial.driver
    one, reader = _made(trial, None)
    if size(reader.batch(0)) < 2:
        trial.skip("its batches hold one record, which two ranks cannot share")
    wanted = _stepped(trial, one, reader)
    fast, _ = _made(trial, None, strict=False)
    apart = differs(_stepped(trial, fast, reader), wanted)
    trial.control("sums in another order differ", apart or differs(_gradients(fast), _gradients(one)))  # of a sign they may not
    for axes in ({"replicate": 2}, {"shard": 2}):
        with trial.case(world=2, mesh=next(iter(axes)), micro_shards=MICRO_SHARDS), driver.patience(PATIENCE):
            program, _ = _made(trial, axes)
            for step, found in enumerate(_stepped(trial, program, reader)):
                with trial.case(step=step):
                    cause = (
                        "something is added up in an order that the ranks decide, or acts on parts as it would not on the whole"
                    )
                    same(trial, "weights of two ranks", found, wanted[step], tolerance="T0", cause=cause)
