"""Tell, before a run, what it will need: memory a rank and bytes communicated a step, for one mesh or all sensible ones.

The spec's own program (model, task, middleware, optimizer, mesh) is stepped on one rank of a world that is not there, on
tensors that have shapes and no data: nothing is trained, and a thousand ranks are planned on one CPU. One batch of the
training data is read for its shapes. Bytes are counted; times are bytes over the bandwidth that is said. Ends with 0 where
a mesh fits."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..core.errors import SpecError
from ..core.json_text import write_json
from ..core.load_spec import load_spec
from ..core.sizes import format_size, parse_rate, parse_size
from . import trusting
from .console import heading, note, screen, table, write

EPILOG = """\
examples:
  mapsto plan recipes/language_model.py                          what the spec's own mesh (or one process) needs
  mapsto plan SPEC --mesh replicate=8,shard=8 --memory 80GB      one mesh: does it fit, and how large a micro-batch would
  mapsto plan SPEC --ranks 64 --memory 80GB --bandwidth 25GB/s   every sensible mesh of 64 ranks, ranked
  mapsto plan SPEC --mesh replicate=-1,shard=8 --ranks 64 --mesh shard=64
  mapsto plan SPEC --ranks 1024 --memory 80GiB data.train.batch_size=4096 --json plan.json"""

WIDTH = 100


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC", help="a recipe, package.module:function, YAML, or a run folder")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="changes to the spec")
    parser.add_argument("--mesh", action="append", default=[], metavar="AXES", help="such as replicate=8,shard=8 (repeatable)")
    parser.add_argument("--ranks", type=int, metavar="N", help="ranks there are; without --mesh all sensible meshes of them")
    parser.add_argument("--memory", metavar="SIZE", help="of one rank's device, such as 80GB or 80GiB")
    parser.add_argument("--reserve", type=float, default=0.1, metavar="SHARE", help="of it kept free (default: 0.1)")
    parser.add_argument("--bandwidth", metavar="RATE", help="at which bytes leave a rank, such as 25GB/s")
    parser.add_argument("--per-node", type=int, default=8, metavar="N", help="ranks of one machine (default: 8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    trusting.arguments(parser)


def run(options: argparse.Namespace) -> int:
    limits = _limits(options)
    if options.json is not None and (not options.json.absolute().parent.is_dir() or options.json.is_dir()):
        raise SpecError(f"--json: {options.json}: a file in a folder that exists is wanted")
    trusting.admit(options, options.spec)
    from ..engine.planning import subject_of
    from ..planning.plan import plan

    spec = load_spec(options.spec).override(*options.overrides)
    subject = subject_of(spec)
    with _shown() as show:
        found = plan(
            spec, subject.example, subject.records, subject.injected,
            meshes=options.mesh, ranks=options.ranks, per_node=options.per_node, progress=show, **limits,
        )  # fmt: skip
    about = {"spec": options.spec, "batch": subject.records, "fields": _fields(subject.example), **limits}
    if options.json is not None:
        text = write_json({**about, "meshes": [one.to_data() for one in found]}, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
        note(f"written: {options.json}")
    _print(found, about)
    return 0 if any(one.fits for one in found) else 1


def _limits(options: argparse.Namespace) -> dict[str, Any]:
    """Memory, reserve and bandwidth, of which nothing need be said. Raises SpecError."""
    if not 0 <= options.reserve < 1:
        raise SpecError(f"--reserve: {options.reserve:g} is not a share of the memory; it is at least 0 and below 1")
    if options.per_node < 1:
        raise SpecError(f"--per-node: {options.per_node} is not a number of ranks of at least 1")
    memory = None if options.memory is None else parse_size(options.memory, "--memory")
    bandwidth = None if options.bandwidth is None else parse_rate(options.bandwidth, "--bandwidth")
    return {"memory": memory, "reserve": options.reserve, "bandwidth": bandwidth}


@contextmanager
def _shown() -> Iterator[Callable[[str], None]]:
    """Each mesh as soon as it is known, on stderr; on a terminal something moves until the next one is."""
    if not sys.stderr.isatty():
        yield note
        return
    with screen(stderr=True).status("planning") as status:
        yield lambda said: status.console.print(said, markup=False, highlight=False)


# -- the table ---------------------------------------------------------------------------------------------------------
def _print(found: Sequence[Any], about: Mapping[str, Any]) -> None:
    write(f"one step of {about['batch']} records: {about['fields']}")
    if about["memory"] is not None:
        kept = f", of which {about['reserve']:.0%} are kept free" if about["reserve"] else ""
        write(f"memory a rank: {format_size(about['memory'])}{kept}")
    stepped = [one for one in found if one.measured is not None]
    if stepped:
        write()
        heading("meshes, best first")
        table(_HEADS, [_row(i, one, about) for i, one in enumerate(stepped, 1)])
        _details(stepped[0])
    if refused := [one for one in found if one.reason]:
        write()
        heading("what does not work")
        for one in refused:
            said = f"{_axes(one.axes)}: {one.reason}"
            write(textwrap.fill(said, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False))


_HEADS = (
    "",
    "mesh",
    "micro-batch",
    "peak",
    "free",
    "fits up to",
    "sent a step",
    "time",
)


def _row(number: int, one: Any, about: Mapping[str, Any]) -> tuple[str, ...]:
    measured, memory = one.measured, about["memory"]
    micro = f"{measured.passes} x {measured.records}" if measured.passes > 1 else str(measured.records)
    free = "" if memory is None else format_size(memory - measured.peak)
    most = "" if one.largest is None else str(one.largest)
    time = "" if one.seconds is None else f"{one.seconds:.3g} s"
    peak = format_size(measured.peak)
    return (str(number) if one.fits else "-", _axes(one.axes), micro, peak, free, most, format_size(one.sent), time)


def _details(one: Any) -> None:
    """Of the best mesh: what its memory is for, and what is communicated."""
    measured = one.measured
    write()
    heading(f"{_axes(one.axes)}, rank {measured.rank}: memory")
    rows = [
        (name, format_size(measured.held.get(name, 0)) if name in measured.held else "", format_size(size))
        for name, size in measured.at_peak.items()
    ]
    rows.append(("all", format_size(sum(measured.held.values())), format_size(measured.peak)))
    table(("for", "held", "at the peak"), rows, indent="  ")
    if moved := one.moved():
        write()
        heading("communicated in a step, counted")
        lines = [
            (n, axis, str(ranks), str(calls), format_size(size), format_size(sent))
            for n, axis, ranks, calls, size, sent in moved
        ]
        table(("collective", "axis", "ranks", "calls", "bytes", "sent by a rank"), lines, indent="  ")


def _axes(axes: Mapping[str, int]) -> str:
    said = ",".join(f"{name}={size}" for name, size in axes.items() if size != 1)
    return said or "one rank"


def _fields(example: Mapping[str, Any]) -> str:
    """Names, types and shapes of the fields of a batch, without its first axis."""
    said = []
    for name, value in example.items():
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
        said.append(name if shape is None else f"{name} {str(dtype).removeprefix('torch.')}{list(shape[1:])}")
    return ", ".join(said)
