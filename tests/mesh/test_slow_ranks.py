"""A slow rank is told by its number and by what it is slow at, though the steps of all ranks take equally long."""

from __future__ import annotations

from pathlib import Path

import pytest
import slow_ranks
from company import RankFailed, on_ranks

from mapsto.engine.diagnosis import diagnose
from mapsto.engine.diagnosis.evidence import Evidence
from mapsto.engine.diagnosis.ranks import slow_rank
from mapsto.engine.folder import RunFolder
from mapsto.engine.record import read_run
from mapsto.engine.report import write_report

WORLD = 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slow")
    on_ranks(WORLD, slow_ranks.train, str(folder))
    return folder


def test_every_log_tells_of_every_rank(runs):
    logs = list(RunFolder(runs / "healthy").records("log"))
    assert len(logs) == 9
    for log in logs:
        ranks = log["detail"]["ranks"]
        assert set(ranks) == {"step", "data", "cpu", "busy", "memory/resident"}
        assert all(len(values) == WORLD and min(values) >= 0 for values in ranks.values())
        assert log["metrics"]["memory/resident"] == max(ranks["memory/resident"])
    assert logs[0]["detail"]["health"] == {"parameters": 4}


def told(folder):
    return slow_rank(Evidence(read_run(RunFolder(folder)), 0.0))


@pytest.mark.parametrize("fault", ["data", "busy", "cpu"])
def test_the_slow_rank_is_told_and_what_it_is_slow_at(runs, fault):
    (finding,) = told(runs / fault)
    assert (finding.values["rank"], finding.values["signal"]) == (1, fault)
    assert finding.values["by_rank"][1] > max(finding.values["by_rank"][::2])
    assert "slow_rank" in diagnose(runs / fault).looked


def test_the_page_shows_each_time_by_rank_and_the_finding_on_top(runs):
    text = write_report(runs / "busy").read_text()
    assert text.index("rank 1 is slow and the others wait for it") < text.index("<h2>Curves</h2>")
    for title in ("step, by rank", "waiting for data, by rank", "own passes, by rank", "time of the processor, by rank"):
        assert f"<figcaption>{title}" in text
    assert text.count("</span>rank 2</span>") == 4


def test_ranks_of_equal_speed_are_not_told_of(runs):
    assert told(runs / "healthy") == []


def test_of_ranks_that_stand_still_the_one_that_the_others_wait_for_is_told_with_its_line(tmp_path):
    with pytest.raises(RankFailed, match="nobody came|Connection"):
        on_ranks(2, slow_ranks.hang, str(tmp_path / "run"))
    finding = diagnose(tmp_path / "run").findings[0]
    assert finding.name == "stalled"
    assert finding.values["ranks"] == [0, 1]
    assert finding.title == "rank 1 stood still and was ended after step 10"
    text = Path(slow_ranks.__file__).read_text().splitlines()
    line = next(i for i, t in enumerate(text, 1) if "the line that a doctor must name" in t)
    assert finding.where[0] == f"{slow_ranks.__file__}:{line} (in hanging)"
    assert "torch" in finding.evidence[0]  # where rank 0 waits
    assert any("the run failed" in title for title in finding.explains)
