"""Results as JUnit XML, which test services read: a suite a mapping, a case a law.

Elements and attributes are those of Jenkins' schema (junit-10.xsd), which GitLab, GitHub's actions and others read as well.
"""

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
    "not stated": "skipped",
    "not applicable": "skipped",
    "known failure": "skipped",
    "expected failure": "skipped",
}
"""Status -> what stands in the case; a pass has nothing."""
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold."""


def xml(results: Results) -> str:
    """The document."""
    root = ElementTree.Element("testsuites", name="mapsto check")
    for kind, subject in dict.fromkeys((v.kind, v.subject) for v in results.verdicts):
        suite = _suite(root, results, kind, subject)
        for made in results.of(kind, subject):
            _case(suite, results, made)
    for lawless in results.lawless:
        case = ElementTree.SubElement(_suite(root, results, lawless.kind, lawless.label), "testcase", name="laws")
        case.set("classname", _clean(f"{lawless.kind}.{lawless.label}"))
        ElementTree.SubElement(case, "skipped", message=f"a {lawless.kind} owes no law that was asked for")
    if results.left:
        case = ElementTree.SubElement(_suite(root, results, "", "mapsto check"), "testcase", name="interrupted")
        case.set("classname", "mapsto check")
        said = f"it was interrupted, and {results.left} laws were not judged"
        ElementTree.SubElement(case, "error", type="interrupted", message=said)
    for element in [*root, root]:
        _count(element)
    root.set("time", f"{results.seconds:.3f}")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: ElementTree.Element, results: Results, kind: str, subject: str) -> ElementTree.Element:
    suite = ElementTree.SubElement(root, "testsuite", name=_clean(subject))
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in {"kind": kind, "seed": str(results.seed), **versions()}.items():
        ElementTree.SubElement(properties, "property", name=name, value=value)
    return suite


def _count(element: ElementTree.Element) -> None:
    """How many cases there are below an element, and how they ended."""
    cases = list(element.iter("testcase"))
    element.set("tests", str(len(cases)))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        if element.tag == "testsuite" or tag != "skipped":
            element.set(name, str(sum(case.find(tag) is not None for case in cases)))
    element.set("time", f"{sum(float(case.get('time', 0)) for case in cases):.3f}")


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
