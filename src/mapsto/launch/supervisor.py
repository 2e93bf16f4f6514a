"""The supervisor: starts a team, hands signals on, tells the first failure, and starts again while that can help.

It waits for nothing without a limit: once a rank has failed the others have GRACE seconds to fail by themselves, and are
killed then; a second Ctrl-C gives them SECOND seconds.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from ..core.errors import LaunchError
from .failure import End, Failure, judge
from .flight_recorder import listed
from .logs import Logs
from .request import Request
from .team import Membership, Team, Workers

GRACE = 4.0
"""Seconds that the other ranks have to end by themselves once one has failed: what they say helps to tell the cause."""
SECOND = 3.0
"""Seconds that ranks have to end after a second Ctrl-C or SIGTERM."""
TICK = 0.25
"""Seconds between two looks at the other nodes."""
REGROW = 60.0
"""Seconds after which a device that was left out is tried again."""
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
STOPPED: set[int | None] = {128 + int(number) for number in STOPS}
"""Exit codes of a rank that was asked to stop, and has saved."""


@dataclass
class Supervisor:
    """One launch, from the first attempt to the exit code.

    words: how the ranks are started, given the run's folder and the attempt's number; signals: those received, as they came.
    """

    request: Request
    workers: Workers
    membership: Membership
    words: Callable[[Path, int], list[str]]
    folder: Path
    say: Callable[[str], None]
    regrow: float = REGROW
    clock: Callable[[], float] = time.monotonic
    signals: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.slots = _Slots(self.request.ranks.low, self.request.ranks.high, self.regrow, self.clock)
        self.attempt = self.fruitless = 0
        self.failures: list[Failure] = []
        self.logs = Logs(self.folder)
        self.seen = newest_checkpoint(self.folder)

    # -- attempts ----------------------------------------------------------------------------------------------------
    def run(self) -> int:
        """The exit code of the run. Raises LaunchError where it cannot begin, or go on."""
        with self._signals():
            while True:
                self.attempt += 1
                try:
                    team = self.membership.join(self.slots.now(), self.attempt)
                except LaunchError:
                    if not self.signals:
                        raise
                if self.signals:
                    return 128 + self.signals[0]
                self._begin(team)
                ends, failed = self._watch(team)
                code = self._outcome(team, ends, failed)
                if code is not None:
                    self.logs.note("ended", code=code)
                    return code

    def _begin(self, team: Team) -> None:
        self._regroup, self.attempt = False, team.attempt
        self.folder = getattr(self.membership, "folder", self.folder)  # that all nodes agreed on
        self.logs = Logs(self.folder)
        self.workers.start(team, self.words(self.folder, self.attempt), self.logs)
        self.logs.note("started", attempt=self.attempt, ranks=list(team.ranks), world=team.world, nodes=team.nodes)
        if self.attempt > 1 or team.nodes > 1:
            where = f" of {team.world} on {team.nodes} nodes" if team.nodes > 1 else ""
            self.say(f"started {listed(team.ranks)}{where}; their words are in {self.logs.path}")

    def _watch(self, team: Team) -> tuple[list[End], bool]:
        """Until all of this node's ranks have ended; how they did, and whether it was a failure."""
        until: float | None = None
        sent, last = 0, self.clock()
        regrow = self.slots.due()
        while True:
            self.workers.poll(TICK)
            codes = self.workers.codes()
            living = [rank for rank, code in codes.items() if code is None]
            bad = any(code not in (None, 0, *self._fine()) for code in codes.values())
            if not living:
                break
            if len(self.signals) > sent:
                sent = self._hand_on(sent)
                if self._at_once():
                    until = min(until or 1e18, self.clock() + SECOND)
            if self.clock() - last > TICK:
                last = self.clock()
                news = self.membership.news()
                bad = bad or news.failed
                if (news.waiting or regrow()) and not self.signals and not self._regroup:
                    self._stop_to_regroup(team, news.waiting)
            if bad and until is None:
                until = self.clock() + GRACE
            if until is not None and self.clock() > until:
                break
        ends = self.workers.ends(look=bool(living) and not self._at_once())
        self.workers.end()
        return ends, bad

    def _fine(self) -> set[int | None]:
        """Codes that are no failure. Who had no time yet to listen for signals is ended by them, and has nothing to save."""
        if not self.signals and not self._regroup:
            return STOPPED
        return STOPPED | {-int(number) for number in STOPS} | ({-int(signal.SIGKILL), 1, None} if self._at_once() else set())

    def _at_once(self) -> bool:
        """Whether it was asked to end a second time; a scheduler's warning (SIGUSR1) before its SIGTERM is no first time."""
        return len([number for number in self.signals if number != signal.SIGUSR1]) > 1

    def _stop_to_regroup(self, team: Team, waiting: int) -> None:
        """Others wait, or a device is to be tried again: all save and end, and start together."""
        self._regroup = True
        who = f"{waiting} more node{'s' if waiting > 1 else ''}" if waiting else "a device that was left out"
        self.say(f"{who} can take part: saving, and going on together")
        self.logs.note("regrouped", world=team.world, waiting=waiting)
        self.workers.signal(signal.SIGTERM)

    def _hand_on(self, sent: int) -> int:
        """Each signal goes to every rank once, whoever else is in the terminal's foreground."""
        for number in self.signals[sent:]:
            self.workers.signal(number)
        return len(self.signals)

    # -- what came of it ---------------------------------------------------------------------------------------------
    def _outcome(self, team: Team, ends: list[End], failed: bool) -> int | None:
        """The exit code, or None to start again."""
        codes = [end.code for end in ends]
        fine = self._fine()
        if not failed and all(code == 0 for code in codes):
            return 0
        if not failed and all(code is not None and (code == 0 or code in fine) for code in codes):
            stops = [c for c in codes if c]
            if self.signals:
                return stops[0] if stops and stops[0] > 0 else 128 + self.signals[0]
            if self._regroup or self.request.elastic:  # another node stopped all, to regroup or because it leaves
                return None
            return stops[0]
        if self._at_once():
            return 128 + self.signals[0]
        everyone = self.membership.exchange_ends(ends)
        failure = judge([*everyone])
        self.logs.note("failed", attempt=self.attempt, kind=failure.kind, ranks=failure.ranks, sentence=failure.sentence)
        if (
            failure.kind == "failed" and not failure.details and not failure.again
        ):  # it explains itself, and is nobody's to mend but the user's
            raise LaunchError(f"{failure.sentence}\nlog: {failure.log}")
        self.say(failure.text())
        if self.signals:
            return 1
        self._count(failure, team)
        self.say(f"starting again from {self.seen or 'the beginning'} (attempt {self.attempt + 1})")
        return None

    def _count(self, failure: Failure, team: Team) -> None:
        """Raises LaunchError where starting again would not help, or was tried often enough."""
        newest, before = newest_checkpoint(self.folder), self.failures[-1:]
        self.fruitless = 0 if newest != self.seen else self.fruitless
        self.seen = newest
        self.failures.append(failure)
        if self.request.restarts == 0:
            raise LaunchError(f"{failure.sentence.splitlines()[0]}")
        if not failure.again:
            raise LaunchError("it is not started again, for it would only meet the same error again")
        if before and failure.key and before[0].key == failure.key:
            raise LaunchError("the same error came at the same step twice, so it is not started again")
        if self.fruitless >= self.request.restarts:
            raise LaunchError(
                f"it was started again {self.fruitless} time{'s' if self.fruitless > 1 else ''} without a new checkpoint, "
                "which is what --restarts allows"
            )
        self.fruitless += 1
        if team.nodes == 1:
            self.slots.lost([team.slots[rank - team.first] for rank in failure.ranks if rank in team.ranks], self.fruitless)

    def close(self) -> None:
        """End all processes of the launch and leave the rendezvous."""
        self.workers.close()
        self.membership.close()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Within it SIGINT, SIGTERM and SIGUSR1 are noted, and nothing else happens."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, _: FrameType | None) -> None:
            if number == signal.SIGUSR1 and self.signals:
                return
            self.signals.append(number)
            if self.signals == [signal.SIGINT]:
                self.say("stopping after this step, and saving; a second Ctrl-C ends it at once")

        before: dict[int, Any] = {number: signal.signal(number, note) for number in STOPS}
        try:
            yield
        finally:
            for number, held in before.items():
                signal.signal(number, held)


class _Slots:
    """The devices of this node: one that is lost twice in a row without a checkpoint between is left out for a while."""

    def __init__(self, low: int, high: int, regrow: float, clock: Callable[[], float]) -> None:
        self.low, self.high, self.regrow, self.clock = low, high, regrow, clock
        self.out: dict[int, float] = {}
        self.pause = regrow
        self.before: set[int] = set()

    def now(self) -> tuple[int, ...]:
        """The slots to use: those that are not left out, and those whose time is over."""
        self.out = {slot: back for slot, back in self.out.items() if back > self.clock()}
        return tuple(slot for slot in range(self.high) if slot not in self.out)

    def lost(self, slots: list[int], in_a_row: int) -> None:
        """Take note of the slots whose ranks failed."""
        for slot in slots:
            if slot in self.before and in_a_row > 1 and self.high - len(self.out) > self.low:
                self.out[slot] = self.clock() + self.pause
                self.pause *= 2  # tried again less and less often
        self.before = set(slots)

    def due(self) -> Callable[[], bool]:
        """Tells whether a slot that was left out may be tried again."""
        back = min(self.out.values(), default=None)
        return lambda: back is not None and self.clock() >= back


def newest_checkpoint(run: Path) -> str:
    """The name of a run's newest checkpoint, or nothing."""
    found = sorted(path.name for path in (run / "checkpoints").glob("step-*")) if run.is_dir() else []
    return found[-1] if found else ""
