"""The page on the doctor tells of every detector and what a run tells, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from mapsto.engine.diagnosis import DETECTORS
from mapsto.engine.diagnosis.finding import EXPLAINS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "doctor.md").read_text(encoding="utf-8")


def test_every_detector_stands_on_the_page_with_a_real_example() -> None:
    missing = [detector.name for detector in DETECTORS if f"**`{detector.name}`.** " not in PAGE]
    assert missing == []
    for detector in DETECTORS:
        text = PAGE.partition(f"**`{detector.name}`.** ")[2].partition("\n**`")[0]
        named = "update_too_small" if detector.name == "update_ratio" else detector.name
        assert f"[{named}]\n" in text.partition("```\n")[2]


def test_what_explains_another_is_a_detector() -> None:
    names = {detector.name for detector in DETECTORS} | {"update_too_small", "update_too_large"}  # of `update_ratio`
    assert {*EXPLAINS, *(name for others in EXPLAINS.values() for name in others)} <= names


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", PAGE)
    assert len(links) > 2
    assert [link for link in links if not (DOCS / link).exists()] == []
