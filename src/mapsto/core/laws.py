"""Laws: statements that every mapping of a kind owes, each with a check, a tolerance and a witness when it is broken.

A law is a function of a `Trial`. It builds fresh instances (`trial.build()`), counts what it exercised, records controls
that had to differ, and demands. A law that exercised nothing proves nothing (unknown); one whose control could not have
broken it is vacuous. Cases are tried smallest first, so the first that fails is the smallest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn

from .driven import Driven, is_of_law
from .errors import RegistryError, UnknownName, nearest
from .registry import Entry, registry
from .wings import DEFAULT

Status = Literal["pass", "fail", "unknown", "vacuous", "not stated", "not applicable", "expected failure", "known failure"]
BAD: tuple[Status, ...] = ("fail", "unknown", "vacuous")
"""Verdicts with which a check does not succeed."""

TOLERANCES = {
    "T0": "bitwise: the same keys, dtypes, shapes, NaN pattern and bits",
    "T1": "float64: rtol 1e-9, atol 1e-12",
    "T2": "relative to float64: at most k times the error of the framework's own eager result (k = 2 float32, 3 half)",
    "T3": "gradcheck's defaults in float64",
    "T4": "a budget the author declares",
    "T5": "float64 against an independent statement: rtol 1e-6, atol 1e-9; exact where it is no floating number",
}


@dataclass(frozen=True, kw_only=True)
class Law:
    """A law of one or more kinds.

    name: `kind.what`, what people type; id: its number in the catalogue; priority: 0 gates, 1 is run by default, 2 only
    with `--thorough`; why: what breaks without it; catches: real bugs (`repository#number`); satisfy: how to keep it;
    tolerance: a class of `TOLERANCES`; seconds: the time limit; ranks: how many processes run the check together; wing: whose
    subjects it judges, by the group of entry points where it is registered (None: those of every wing); driver: the protocol
    of the driver through which it builds and reads them (`mapsto.laws.drivers`), where it uses one.
    """

    name: str
    id: str
    kinds: tuple[str, ...]
    priority: int
    statement: str
    why: str
    satisfy: str
    check: Callable[[Trial], None] = field(repr=False)
    catches: tuple[str, ...] = ()
    tolerance: str = "T0"
    seconds: float = 60.0
    ranks: int = 1
    wing: str | None = None
    driver: type | None = field(default=None, repr=False)

    def judges(self, subject: Subject) -> bool:
        """Whether a subject is of its kinds and its wing."""
        return subject.kind in self.kinds and self.wing in (None, subject.wing)


@dataclass(frozen=True, kw_only=True)
class Example:
    """How to build and feed a mapping so that it can be checked; stated by its author where it cannot be found.

    args: arguments of the target; inputs: `(size, generator) -> tuple of inputs`, `size` being the number of records and
    `generator` the wing's seeded generator; dynamic: sizes that must work; tags: what it declares of itself, such as
    `row_independent`, `stochastic`, `stateful`, `needs_closure`; expect: law -> reason, for laws that it is known to break
    (strict: an unexpected pass fails); more: what only laws of its kind ask for.
    """

    args: Mapping[str, Any] = field(default_factory=dict)
    inputs: Callable[..., tuple[Any, ...]] | None = None
    dynamic: tuple[int, ...] = (1, 2, 3, 7)
    tags: frozenset[str] = frozenset()
    expect: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is checked: `target` is a class, a factory or (then `make` copies it) an instance; `reference` finds it again.

    driver: how the laws of its kind build, feed and read it; words: law -> how to satisfy it in the framework's own words;
    its wing gives them;
    wing: the framework that it is native to; None where its kind serves all;
    spec: the recipe that it is a part of, whose data and model are then what it is fed, where its author states nothing else.
    """

    kind: str
    label: str
    reference: str
    target: Any = field(repr=False, compare=False)
    example: Example = field(default_factory=Example)
    make: Callable[[], Any] | None = field(default=None, repr=False, compare=False)
    driver: Any = field(default=None, repr=False, compare=False)
    wing: str | None = None
    spec: Any = field(default=None, repr=False, compare=False)
    words: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Witness:
    """Why a law is broken, in numbers.

    said: one sentence; case: the smallest failing case (size, dtype, layout, world, mode, ...); measured against allowed,
    in the law's tolerance; first: where the two first differ (step, module, tensor, index); cause: the likely one where
    the numbers tell it; script: a program that reproduces it when run by itself.
    """

    said: str
    case: Mapping[str, Any] = field(default_factory=dict)
    measured: float | str | None = None
    allowed: float | str | None = None
    first: Mapping[str, Any] = field(default_factory=dict)
    cause: str | None = None
    script: str | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of one law on one subject: one JSON record."""

    subject: str
    kind: str
    law: str
    id: str
    priority: int
    status: Status
    reason: str = ""
    witness: Witness | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    controls: Mapping[str, bool] = field(default_factory=dict)
    seconds: float = 0.0
    seed: int = 0
    output: str = ""
    reference: str = ""
    wing: str | None = None
    advice: str = ""


class Outcome(BaseException):
    """Raised within a check to end it with a verdict; what catches a component's exceptions lets it through."""


class Violation(Outcome):
    """Raised within a check: the law is broken, and this is the witness."""

    def __init__(self, witness: Witness) -> None:
        super().__init__(witness.said)
        self.witness = witness


class NotApplicable(Outcome):
    """Raised within a check: the law does not concern this subject, for a reason it declares."""


class NotStated(Outcome):
    """Raised within a check: what the author would have to state, such as a formula, and nothing speaks against it."""


class Undecided(Outcome):
    """Raised within a check: it cannot be told, and this is what the author would have to state."""


class Trial:
    """What a law's check is given: the subject, a seed, and the means to count, demand and witness."""

    def __init__(
        self,
        subject: Subject,
        law: Law,
        *,
        seed: int = 0,
        thorough: bool = False,
        rank: int = 0,
        world: int = 1,
        record: bool = False,
        search: float = 0.0,
    ) -> None:
        """record: laws of recorded values write what they see, and compare nothing; search: seconds of computing in which
        laws that can search for inputs on which they are broken do so.
        """
        self.record, self.search = record, search
        self.subject, self.law, self.seed, self.thorough, self.rank, self.world = subject, law, seed, thorough, rank, world
        self.counts: Counter[str] = Counter()
        self.controls: dict[str, bool] = {}
        self.drawn: list[Any] | None = None
        """What was drawn, a tree for each size, where a search is to know it."""
        self.tried: Any = None
        """What a search tries in the place of what is drawn."""
        self.single = False
        """Whether the subject was seen to compute in float32 whatever it is given: exact comparisons allow its rounding."""
        self._case: dict[str, Any] = {}

    @property
    def example(self) -> Example:
        return self.subject.example

    @property
    def driver(self) -> Any:
        """The subject's driver, behind the protocol that the law declares. Undecided where no wing gives one."""
        driver = self.subject.driver
        if driver is None:
            self.undecided(_driverless(self.subject))
        return driver if self.law.driver is None else Driven(driver, self.law.driver, self.subject.target, self.undecided)

    def has(self, tag: str) -> bool:
        """Whether the subject declares the tag."""
        return tag in self.example.tags

    @contextmanager
    def case(self, **labels: Any) -> Iterator[None]:
        """Within it, a witness says that these held: `with trial.case(size=1, dtype="float64"): ...`."""
        before = self._case
        self._case = {**before, **labels}
        try:
            yield
        finally:
            self._case = before

    def exercised(self, what: str, n: int = 1) -> None:
        """Count what was really compared; a law that counts nothing is unknown."""
        self.counts[what] += n

    def control(self, what: str, differs: bool) -> None:
        """Record something that had to differ for an equality to mean anything; where it does not, the law is vacuous."""
        self.controls[what] = self.controls.get(what, False) or bool(differs)

    def skip(self, reason: str) -> NoReturn:
        """The law does not concern this subject."""
        raise NotApplicable(reason)

    def undecided(self, reason: str) -> NoReturn:
        """It cannot be told; say what to write."""
        raise Undecided(reason)

    def not_stated(self, reason: str) -> NoReturn:
        """Only its author can say what it ought to compute; say what to write. It is unknown where the check gates."""
        raise NotStated(reason)

    def fail(
        self,
        said: str,
        *,
        measured: float | str | None = None,
        allowed: float | str | None = None,
        first: Mapping[str, Any] | None = None,
        cause: str | None = None,
        script: str | None = None,
    ) -> NoReturn:
        """End the trial with the verdict that the law is broken."""
        raise Violation(
            Witness(
                said=said,
                case=dict(self._case),
                measured=measured,
                allowed=allowed,
                first=dict(first or {}),
                cause=cause,
                script=script,
            )
        )

    def demand(self, holds: bool, said: str, **witness: Any) -> None:
        """Fail with `said` unless it holds; count it under the law's own name where it does."""
        if not holds:
            self.fail(said, **witness)
        self.exercised("demands")

    @contextmanager
    def component(self, doing: str) -> Iterator[None]:
        """Within it, an exception is the component's own, where the law says that this must work.

        Of a law that reaches it through a driver alone what its own code raises is not, and is raised on.
        """
        try:
            yield
        except Exception as error:
            if self.law.driver is not None and is_of_law(error, self.law.check, self.subject.target):
                raise
            text = str(error).strip().splitlines()
            self.fail(f"{doing} raised {type(error).__name__}: {text[0] if text else ''}"[:600], cause="the component raised")

    @contextmanager
    def building(self, args: Mapping[str, Any], *, guessed: bool = True) -> Iterator[None]:
        """Within it the subject is built with these arguments: an exception is its own where its author stated them, and
        undecided where some were guessed, since a right mapping may refuse what nobody would have given it.
        """
        try:
            with self.component("building it"):
                yield
        except Violation as refused:
            if not guessed:
                raise
            name = self.subject.label.rpartition(":")[2].rpartition("/")[2]
            said = ", ".join(f"{n}={v!r:.40}" for n, v in args.items()) or "no arguments"
            self.undecided(
                f"{refused.witness.said} (with {said}, some of it guessed); write beside it\n"
                f"  mapsto.example({name}, args={{...}})"
            )


def judge(trial: Trial) -> tuple[Status, str, Witness | None]:
    """Run the check of a trial: the verdict's status, its reason and the witness. Lets nothing but KeyboardInterrupt out."""
    if trial.subject.kind == "program" and (wing := trial.subject.wing) and not registry.wing(wing).program:
        return (
            "not applicable",
            f"the wing {wing} names no program of its own (`Framework.program`), so it trains nothing",
            None,
        )
    try:
        trial.law.check(trial)
    except Violation as broken:
        return "fail", broken.witness.said, broken.witness
    except NotApplicable as declared:
        return "not applicable", str(declared), None
    except NotStated as silent:
        return "not stated", str(silent), None
    except Undecided as open_question:
        return "unknown", str(open_question), None
    except SystemExit as left:
        return "unknown", f"the component raised SystemExit({left.code!r})", None
    except Exception as error:  # noqa: BLE001  # one law's crash never stops the others
        return "unknown", _crash(error), None
    if not sum(trial.counts.values()):
        return "unknown", "nothing was compared", None
    if same := [name for name, differs in trial.controls.items() if not differs]:
        return "vacuous", f"the control did not differ: {', '.join(same)}", None
    return "pass", "", None


def _driverless(subject: Subject) -> str:
    """Why nothing drives a subject."""
    if subject.wing is None:
        return f"no installed framework knows how to drive this {subject.kind}"
    framework, what = registry.wing(subject.wing), f"nothing drives this {subject.kind}: the wing {subject.wing}"
    if not framework.laws:
        return f"{what} names no module of laws (`Framework.laws`)"
    if not framework.installed:
        return f"{what} is of {framework.packages[0]}, which is not installed"
    return f"{what} has no driver for it (`complete` of {framework.laws})"


def _crash(error: BaseException) -> str:
    import traceback

    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"the check crashed: {type(error).__name__}: {str(error)[:400]} ({last.filename}:{last.lineno} in {last.name})"


def verdict(trial: Trial, *, seconds: float = 0.0, output: str = "") -> Verdict:
    """Judge a trial and settle it against what the example expects."""
    status, reason, witness = judge(trial)
    if witness is not None and witness.script is None and trial.subject.reference:
        witness = replace(witness, script=reproduction(trial))
    made = Verdict(
        subject=trial.subject.label,
        kind=trial.subject.kind,
        law=trial.law.name,
        id=trial.law.id,
        priority=trial.law.priority,
        status=status,
        reason=reason or str(trial.example.more.get("found", "")),
        witness=witness,
        counts=dict(trial.counts),
        controls=dict(trial.controls),
        seconds=seconds,
        seed=trial.seed,
        output=output,
        reference=trial.subject.reference,
        wing=trial.subject.wing,
        advice=trial.subject.words.get(trial.law.name, ""),
    )
    return against_expected(made, trial.example)


def reproduction(trial: Trial) -> str:
    """A program that judges the law on the subject again: the script of a witness that has none of its own."""
    subject, law = trial.subject, trial.law
    options = "".join(
        [
            f", kind={subject.kind!r}",
            f", wing={subject.wing!r}" if subject.wing not in (None, DEFAULT) else "",
            f", seed={trial.seed}" if trial.seed else "",
            ", thorough=True" if trial.thorough else "",
        ]
    )
    return (
        "from mapsto.core.laws import find_law\n"
        "from mapsto.testing import in_words, judge_law\n\n"
        "if __name__ == '__main__':\n"
        f"    verdict = judge_law({subject.reference!r}, {law.name!r}{options})\n"
        f"    print(in_words(verdict, find_law({law.name!r})))\n"
    )


def against_expected(made: Verdict, example: Example) -> Verdict:
    """Expected failures are strict: a failure that was announced is one, an announced failure that passes fails."""
    expected = example.expect.get(made.law, example.expect.get(made.id))
    if expected is None:
        return made
    if made.status == "fail":
        return replace(made, status="expected failure", reason=expected)
    if made.status == "pass":
        said = f"it passes, and the example expects it to fail ({expected}): take it out of `expect`"
        return replace(made, status="fail", reason=said, witness=Witness(said=said))
    return made


# -- declaring ---------------------------------------------------------------------------------------------------------
class Laws:
    """The laws of a file, gathered by decorating their checks; registered as one `law/...` entry.

    `laws = Laws("layer")`, then `@laws.law("L1", "gradients", priority=0, ...)` above a function of a Trial.
    """

    def __init__(self, *kinds: str, driver: type | None = None) -> None:
        """kinds: whose laws they are; driver: the protocol of the driver that they use. Raises UnknownName for a kind that
        there is not.
        """
        for kind in kinds:
            if kind not in registry.kinds():
                raise UnknownName(f"laws of {kind!r}: there is no such kind; {nearest(kind, registry.kinds())}")
        self.kinds, self.driver = kinds, driver
        self.found: list[Law] = []

    def __call__(self) -> Sequence[Law]:
        return tuple(self.found)

    def law(
        self, id: str, what: str, *, kinds: Iterable[str] = (), **fields: Any
    ) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
        """Declare the law `kind.what`; the first line of the check's docstring is its statement where none is given."""

        def declare(check: Callable[[Trial], None]) -> Callable[[Trial], None]:
            of = tuple(kinds) or self.kinds
            statement = fields.pop("statement", None) or " ".join((check.__doc__ or "").split())
            made = Law(name=f"{of[0]}.{what}", id=id, kinds=of, statement=statement, check=check, driver=self.driver, **fields)
            if not made.statement or made.tolerance not in TOLERANCES or made.priority not in (0, 1, 2):
                raise RegistryError(f"law {made.name}: it needs a statement, a priority of 0, 1 or 2 and a known tolerance")
            self.found.append(made)
            return check

        return declare


def all_laws(wings: Iterable[str | None] | None = None) -> dict[tuple[str, str | None], Law]:
    """The registered laws by name and wing: the neutral ones and those of some wings (default: of all whose framework is
    installed); those of a wing whose framework is missing are left out. Raises RegistryError where two have one name.
    """
    installed = {f.name for f in registry.frameworks() if f.installed}
    wanted = installed if wings is None else installed & set(wings)
    found: dict[tuple[str, str | None], Law] = {}
    for entry in registry.entries("law"):
        if entry.wing is None or entry.wing in wanted:
            for law in _declared(entry):
                _enter(replace(law, wing=entry.wing), entry, found)
    return dict(sorted(found.items(), key=lambda item: (item[1].kinds[0], item[1].priority, item[1].id)))


def _declared(entry: Entry) -> Sequence[Law]:
    """The laws of an entry. Raises RegistryError that says whose they are."""
    try:
        made: Sequence[Law] = registry.get("law", entry.name, entry.wing)()
    except UnknownName as error:  # of a kind
        raise RegistryError(f"{entry.key} of {entry.origin}: {error}") from error
    return made


def _enter(law: Law, entry: Entry, found: dict[tuple[str, str | None], Law]) -> None:
    """Put a law beside the others; a neutral one and one of a wing, which judge the same subjects, may share no name either."""
    met = [w for w in found.values() if w.name == law.name and (w.wing == law.wing or None in (w.wing, law.wing))]
    if any(w != law for w in met):
        raise RegistryError(f"law {law.name} is declared twice: {entry.reference} from {entry.origin}")
    found[law.name, law.wing] = law


def laws_for(kind: str, *, priority: int = 1, wing: str = DEFAULT) -> list[Law]:
    """The laws that a kind owes in a wing, up to a priority."""
    return [law for law in all_laws([wing]).values() if kind in law.kinds and law.priority <= priority]


def find_law(name: str, wing: str | None = DEFAULT) -> Law:
    """A law by its name, its id or the end of its name, of a wing or neutral. Raises UnknownName with what exists."""
    laws = all_laws([wing]).values()
    hits = [law for law in laws if name in (law.name, law.id) or law.name.endswith("." + name)]
    if len(hits) != 1:
        several = f"{name!r} may be {', '.join(h.name for h in hits)}; " if hits else f"there is no law {name!r}; "
        raise UnknownName(several + nearest(name, [law.name for law in laws]))
    return hits[0]


_EXAMPLES: dict[int, tuple[Any, Example]] = {}


def example(
    target: Any,
    *,
    args: Mapping[str, Any] | None = None,
    inputs: Callable[..., tuple[Any, ...]] | None = None,
    dynamic: Iterable[int] = (1, 2, 3, 7),
    tags: Iterable[str] = (),
    expect: Mapping[str, str] | None = None,
    **more: Any,
) -> Any:
    """State how `target` is built and fed for its laws (see `Example`); stands beside the component. Returns the target."""
    made = Example(
        args=dict(args or {}), inputs=inputs, dynamic=tuple(dynamic), tags=frozenset(tags), expect=dict(expect or {}), more=more
    )
    _EXAMPLES[id(target)] = (target, made)
    return target


def example_of(target: Any) -> Example | None:
    """The example stated for a target, or None."""
    cached = _EXAMPLES.get(id(target))
    return cached[1] if cached is not None and cached[0] is target else None
