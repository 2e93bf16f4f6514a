"""Results as JUnit XML, which test services read: a suite a subject, a case a law."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from ..core.laws import Verdict
from .results import Results, versions
from .words import counted, in_words

ELEMENT = {
    "fail": "failure",
    "unknown": "error",
    "vacuous": "error",
    "not applicable": "skipped",
    "expected failure": "skipped",
}
"""Status -> what stands in the case; a pass has nothing."""
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold."""


def xml(results: Results) -> str:
    """The document."""
    root = ElementTree.Element("testsuites", name="mapsto check", time=f"{results.seconds:.3f}")
    for kind, subjects in results.kinds().items():
        for subject in subjects:
            _suite(root, results, kind, subject)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: ElementTree.Element, results: Results, kind: str, subject: str) -> None:
    verdicts = results.of(kind, subject)
    tags = [ELEMENT.get(v.status) for v in verdicts]
    suite = ElementTree.SubElement(
        root, "testsuite", name=_clean(subject), tests=str(len(verdicts)), failures=str(tags.count("failure")),
        errors=str(tags.count("error")), skipped=str(tags.count("skipped")), time=f"{sum(v.seconds for v in verdicts):.3f}",
    )  # fmt: skip
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in {"kind": kind, "seed": str(results.seed), **versions()}.items():
        ElementTree.SubElement(properties, "property", name=name, value=value)
    for made in verdicts:
        _case(suite, results, made)


def _case(suite: ElementTree.Element, results: Results, made: Verdict) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", classname=_clean(f"{made.kind}.{made.subject}"), name=_clean(made.law), time=f"{made.seconds:.3f}"
    )
    tag = ELEMENT.get(made.status)
    if tag is not None:
        found = ElementTree.SubElement(case, tag, type=made.status, message=_clean(f"{made.status}: {made.reason}"[:500]))
        found.text = _clean(in_words(made, results.law(made), script=True))
    out = "\n".join(text for text in (counted(made.counts, 99), made.output) if text)
    if out:
        ElementTree.SubElement(case, "system-out").text = _clean(out)


def _clean(text: str) -> str:
    return FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
