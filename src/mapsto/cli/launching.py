"""How `train` starts ranks: by itself on this machine, with others under a rendezvous, on Ray, or as a rank of a launcher."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import traceback
from pathlib import Path
from typing import Any

from ..core.errors import LaunchError, MapstoError
from ..core.load_spec import load_spec
from ..core.registry import registry
from ..core.spec import Spec
from ..core.trust import REGISTERED_ONLY, registered_only
from ..core.values import Part
from ..core.wings import DEFAULT
from ..launch import slurm
from ..launch.local import Alone, LocalWorkers
from ..launch.record import rank_of
from ..launch.rendezvous import Rendezvous
from ..launch.request import Address, MeshSize, Request, Span, check_devices, check_mesh, mesh_size
from ..launch.secret import secret_of
from ..launch.supervisor import Supervisor, newest_checkpoint
from ..launch.team import Membership, Workers
from ..processes.forks import ForkServer
from .console import fail, note

CHANGED = ("data", "schedule", "recipes")
"""What --NAME-changed says may be another than it was, when a run goes on."""
PRELOAD = ("mapsto.engine.run", "mapsto.cli.train")
"""What every rank imports, besides what its wing needs: once, before they are forked."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say where ranks run."""
    ranks = parser.add_argument_group("ranks")
    ranks.add_argument("--ranks", metavar="N", help="start N ranks on this machine (on each node); 2:4 for from 2 to 4")
    ranks.add_argument("--nodes", metavar="N", help="nodes of --ranks each that meet; 1:4 for from 1 to 4, as they come and go")
    ranks.add_argument("--node-rank", metavar="K", type=int, help="this node's place; node 0 has the leader and the rendezvous")
    ranks.add_argument("--rendezvous", metavar="HOST:PORT", help="where the nodes meet")
    ranks.add_argument(
        "--secret-file", metavar="FILE", help="a secret that the nodes share; else MAPSTO_SECRET, else RUN/.secret"
    )
    ranks.add_argument("--ray", metavar="ADDRESS", nargs="?", const="auto", help="let a Ray cluster place the ranks")
    ranks.add_argument(
        "--restarts", metavar="N", type=int, default=3, help="start again at most N times without a new checkpoint between (3)"
    )
    ranks.add_argument("--wait", metavar="SECONDS", type=float, default=600.0, help="how long nodes wait for each other (600)")
    ranks.add_argument(
        "--check-collectives", action="store_true", help="compare every collective of the ranks as it is entered (slow)"
    )


def requested(options: argparse.Namespace) -> Request | None:
    """What the options ask for; None where they leave it to the spec. Raises LaunchError."""
    if options.ranks is None and options.nodes is None and options.ray is None:
        for name in ("node_rank", "rendezvous", "secret_file"):
            if getattr(options, name) is not None:
                raise LaunchError(f"--{name.replace('_', '-')} goes with --nodes N (and --ranks, a node's)")
        return None
    nodes, place, meet = options.nodes, options.node_rank, options.rendezvous
    if nodes is None and options.ray is None and slurm.is_step(os.environ):  # one task of srun a node
        nodes, place = os.environ["SLURM_STEP_NUM_TASKS"], int(os.environ["SLURM_PROCID"])
        meet = meet or "{}:{}".format(*slurm.meeting(os.environ))
    return Request(
        ranks=Span.parse(options.ranks or "1", "--ranks"),
        nodes=Span.parse(nodes or "1", "--nodes"),
        node_rank=place,
        rendezvous=Address.parse(meet) if meet is not None else None,
        restarts=options.restarts,
        wait=options.wait,
        check_collectives=options.check_collectives,
    )


def become_rank() -> bool:
    """Whether this process is a rank that another launcher started; a task of srun is given torchrun's variables."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return True
    if not slurm.is_step(os.environ):
        return False
    os.environ.update(slurm.variables(os.environ))
    return True


def goes_on() -> bool:
    """Whether a launcher or a scheduler starts this process again: what it began is to be gone on with."""
    counts = (os.environ.get(name, "0") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return any(count.isdigit() and int(count) > 0 for count in counts)


# -- looking at the spec -----------------------------------------------------------------------------------------------
def spec_of(options: argparse.Namespace) -> Spec:
    """The spec that the words name."""
    if options.resume is not None:
        from ..engine.run import Run

        return Run.resume(options.resume, *options.words, checkpoint=options.checkpoint).spec
    return load_spec(options.words[0]).override(*options.words[1:])


def size_of(spec: Spec) -> MeshSize | None:
    """How many ranks the spec's mesh wants."""
    mesh = spec.mesh
    if not isinstance(mesh, Part):
        return None
    if "servers" in mesh.args:
        raise LaunchError("mesh: a parameter server starts its own workers, so it takes no --ranks; leave that out")
    return mesh_size(mesh.args)


def describe(resume: str | None, words: list[str], checkpoint: str | None, debug: bool, told: int) -> int:
    """In a fork: what a launcher must know of a spec, as JSON into a descriptor; errors are told as ever."""
    from ..engine.checked import checked
    from ..engine.wing import find_wing

    try:
        spec = spec_of(argparse.Namespace(resume=resume, words=words, checkpoint=checkpoint))
        checked(spec, begins=False)  # whoever leads finds out whether it begins
        size = size_of(spec)
        about = {
            "name": spec.name,
            "mesh": dataclasses.asdict(size) if size else None,
            "device": spec.device.partition(":")[0],
            "devices": find_wing(spec.wing).accelerators(spec.device),
        }
    except (MapstoError, OSError) as error:
        if debug:
            note("".join(traceback.format_exception(error)).rstrip())
        fail(str(error))
        return 1
    with open(told, "w") as file:
        json.dump(about, file)
    return 0


def wanted(options: argparse.Namespace, spec: Spec) -> Request | None:
    """The ranks that a spec asks for by itself: those of a mesh of a fixed number, where no launcher is there."""
    mesh = spec.mesh
    if is_rank() or not isinstance(mesh, Part) or "servers" in mesh.args:
        return None
    size = mesh_size(mesh.args)
    if size is None or size.open or size.ranks == 1:
        return None
    return Request(Span(size.ranks, size.ranks), restarts=options.restarts, check_collectives=options.check_collectives)


# -- launching ---------------------------------------------------------------------------------------------------------
def launch(options: argparse.Namespace, request: Request) -> int:
    """Start the ranks and stay with them; the exit code."""
    threads = max(1, len(os.sched_getaffinity(0)) // request.ranks.high) if hasattr(os, "sched_getaffinity") else 1
    detail = {"TORCH_DISTRIBUTED_DEBUG": "DETAIL"} if request.check_collectives else {}
    detail |= {REGISTERED_ONLY: "1"} if registered_only() else {}
    given = int(os.environ["OMP_NUM_THREADS"]) if os.environ.get("OMP_NUM_THREADS", "").isdigit() else threads
    preload = (*registry.wing(_likely_wing(options)).preload, *PRELOAD)
    with ForkServer(preload, threads=given, environment=detail) as server:
        about = _look(server, options)
        if about is None:
            return 1
        check_mesh(request, MeshSize(**about["mesh"]) if about["mesh"] else None)
        if options.ray is None:
            check_devices(request, about["device"], about["devices"])
        folder = _folder(options, about["name"])
        signals: list[int] = []
        membership: Membership = Alone()
        workers: Workers = LocalWorkers(server, "mapsto.cli.entry:main")
        if options.ray is not None:
            from ..launch.cluster import Cluster

            membership = workers = Cluster(options.ray, request, about["device"], detail)
        elif request.nodes.high > 1:
            shared = folder if options.run or options.resume else None
            secret = secret_of(options.secret_file, os.environ, shared)
            membership = Rendezvous(server, request, folder, secret, note, lambda: not signals)
        supervisor = Supervisor(
            request=request,
            workers=workers,
            membership=membership,
            words=_Words(options),
            folder=folder,
            say=note,
            signals=signals,
        )
        try:
            return supervisor.run()
        except LaunchError as error:
            raise LaunchError(f"{error}{_go_on(supervisor.folder)}") from None
        finally:
            supervisor.close()


def _likely_wing(options: argparse.Namespace) -> str:
    """The wing that the words seem to name. The spec itself is looked at in a fork of the server: where it says another one,
    the ranks import their framework each for itself.
    """
    from ..engine.folder import SPEC

    said = [word.partition("=")[2] for word in options.words if word.startswith("wing=")]
    place = Path(options.resume) if options.resume is not None else Path(options.words[0].partition(":")[0])
    file = next((p for p in (place, place / SPEC, place.parent.parent / SPEC) if p.is_file()), None)
    text = file.read_text(encoding="utf-8", errors="replace") if file is not None else ""
    said += re.findall(r"""^[ \t]*wing[ \t]*[:=][ \t]*["']?([\w-]+)""", text, re.MULTILINE)
    return said[0] if said and said[0] in registry.wings() else DEFAULT


def _go_on(folder: Path) -> str:
    """How to go on with what is saved, if anything is."""
    if not newest_checkpoint(folder):
        return ""
    from ..engine.folder import RunFolder

    if RunFolder(folder).environment().get("resumable_from_folder", True):
        return f"\nGo on with: mapsto train --resume {folder}"
    return f"\nGo on with the same command and --run {folder} --continue"


def _look(server: ForkServer, options: argparse.Namespace) -> dict[str, Any] | None:
    """What the launcher must know of the spec, found out in a fork; None where that failed, and has been told."""
    heard, told = os.pipe()
    try:
        words = [options.resume, options.words, options.checkpoint, options.debug]
        pid = server.fork("mapsto.cli.launching:describe", words, pass_=(1, 2, told))
    finally:
        os.close(told)
    with open(heard) as file:
        while (code := server.wait(pid)) is None:
            pass  # importing a recipe takes as long as it takes
        text = file.read()
    if code < 0:
        raise LaunchError(f"the process that looked at the spec was ended by signal {-code}")
    return dict(json.loads(text)) if text else None


def _folder(options: argparse.Namespace, name: str) -> Path:
    from ..engine.folder import default_folder

    if options.resume is not None:
        path = Path(options.resume)
        return path.parent.parent if path.parent.name == "checkpoints" else path
    return Path(options.run) if options.run is not None else default_folder(name)


class _Words:
    """The words of a rank's command line: as they were said, and from the second attempt on, to go on with what there is."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.before = "" if options.resume is None else newest_checkpoint(_folder(options, ""))

    def __call__(self, folder: Path, attempt: int) -> list[str]:
        options = self.options
        words = ["train", *options.words]
        if options.resume is not None:
            words += ["--resume", str(folder)]
            if options.checkpoint is not None and newest_checkpoint(folder) == self.before:
                words += ["--checkpoint", options.checkpoint]
        else:
            words += ["--run", str(folder)]
            words += ["--continue"] if attempt > 1 or options.go_on else []
        words += [f"--{name}-changed" for name in CHANGED if getattr(options, f"{name}_changed")]
        return words + ["--quiet"] * options.quiet + ["--debug"] * options.debug


def is_rank() -> bool:
    """Whether this process has a rank already."""
    return rank_of() is not None
