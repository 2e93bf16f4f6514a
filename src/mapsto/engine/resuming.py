"""Going on is exact or an error: what is not as it was when a checkpoint was written, and who said that it may be so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import DataError, SpecError
from ..core.injected import takers
from ..core.spec import Spec
from .fingerprint import again, changes
from .wing import Wing

RATES = 200_000
"""The longest run whose rates are computed step by step, so that two schedules can be compared."""


@dataclass(frozen=True)
class Accepted:
    """What a person said may be another than it was: the data, the schedule, the recipe files."""

    data: bool = False
    schedule: bool = False
    recipes: bool = False


# -- data --------------------------------------------------------------------------------------------------------------
def compared_data(
    manifest: Mapping[str, Any],
    here: Mapping[str, Any],
    readers: Mapping[str, Any],
    versions: Mapping[str, str],
    accepted: bool,
) -> list[str]:
    """Notes on data that are not proven to be those of a checkpoint. Raises DataError where they are proven to be others.

    here: the fingerprint by name of the readers that are compared.
    """
    there = manifest.get("data")
    if there is None:
        return ["the checkpoint does not tell what its data were, so nothing was compared"]
    notes: list[str] = []
    wrong: list[str] = []
    for name, now in here.items():
        if (before := there.get(name)) is None:
            continue
        found, more = changes(before, now)
        notes += [f"data.{name}: {note}" for note in more]
        batches = [line for line in found if line.startswith("the batch at")]
        contents = [line for line in found if line.startswith("contents at")]
        if found and found in (batches, contents) and again(readers[name], before, now):
            notes.append(f"data.{name}: its records are drawn anew at each reading, so their contents were not compared")
        elif found and found == batches and versions != manifest["versions"]:  # a library may compute otherwise
            notes.append(f"data.{name}: {'; '.join(found)} (so do the versions differ)")
        elif found:
            wrong.append(f"data.{name}: {'; '.join(found)}")
    if wrong and not accepted:
        raise DataError(
            f"data: not those that the run was trained with: {'; '.join(wrong)}. "
            "Go on with the data as they are: --data-changed (data_changed=True); or put back what was there"
        )
    return [*(f"the data were changed, as was said: {line}" for line in wrong), *notes]


# -- schedule ----------------------------------------------------------------------------------------------------------
def compared_schedule(
    spec: Spec, wing: Wing, step: int, there: Mapping[str, Any], here: Mapping[str, Any], accepted: bool
) -> tuple[list[str], bool]:
    """(notes, whether the schedule is to be that of the run as it is now). there, here: what was and is injected into parts.

    Raises SpecError where a part took what has changed: the run would not be the one that was begun.
    """
    changed = [name for name in here if name in there and there[name] != here[name]]
    taken = {path: name for name in changed for path in takers(spec, name)}
    if not taken:
        return [], False
    scheduled = any(_of_schedule(path) for path in taken)
    rates = _rates(spec, wing, step, there, here) if scheduled else ""
    if rates is None:  # the same at every step, such as a warm-up of so many steps to a constant rate
        taken = {path: name for path, name in taken.items() if not _of_schedule(path)}
        if not taken:
            return [], False
        rates = ""
    how = "; ".join(f"{path} was built for {name} {there[name]}, and it is {here[name]} now" for path, name in taken.items())
    if not accepted:
        raise SpecError(
            f"a resumed run keeps its trajectory, and another length would change it: {how}{rates}. Go on all the same: "
            "--schedule-changed (schedule_changed=True), which takes the rates of the new length from here on; "
            "or keep epochs and steps as they were"
        )
    return [f"the schedule was changed, as was said: {how}{rates}"], scheduled


def _of_schedule(path: str) -> bool:
    """Whether a path is within a schedule, the spec's or that of a turn."""
    steps = path.split(".")
    return "schedule" in (steps[0], *(steps[2:3] if steps[0] == "turns" else ()))


def _rates(spec: Spec, wing: Wing, step: int, there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """What becomes of the rate, in words; None where it is the same at each step that both lengths have."""
    ends = (there["total_steps"], here["total_steps"])
    if not hasattr(wing, "rates") or max(ends) > RATES:
        return ""
    before, now = wing.rates(spec, there, ends[0]), wing.rates(spec, here, ends[1])
    if not before or not now:
        return ""
    if all(a == b for a, b in zip(before, now, strict=False)):
        return None
    return (
        f"; the rate: at step {step} {_at(before, step)} before, {_at(now, step)} now; "
        f"at the last step {_at(before, ends[0] - 1)} before (step {ends[0]}), {_at(now, ends[1] - 1)} now (step {ends[1]})"
    )


def _at(rates: Sequence[float], step: int) -> str:
    return f"{rates[step]:.4g}" if 0 <= step < len(rates) else "none (it is over)"
