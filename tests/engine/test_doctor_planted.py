"""The doctor against a table of planted faults: each is named, its twin is healthy, and what is natural raises no alarm."""

from __future__ import annotations

import json
from pathlib import Path

import planted
import pytest
from runs import fit
from test_doctor import TIMED

from mapsto.core.errors import MapstoError
from mapsto.engine.diagnosis import diagnose
from mapsto.engine.diagnosis.finding import Gravity


def diagnosed(fault, folder: Path):
    try:
        fit(planted.spec(fault), folder)
    except (MapstoError, IndexError, ZeroDivisionError):
        assert fault.gravity == planted.FATAL
    return diagnose(folder)


def grave(diagnosis):
    """The findings of weight, but what the machine may add."""
    return {f.name for f in diagnosis.findings if f.gravity > Gravity.NOTE} - TIMED


def test_the_table_is_long_enough_and_names_each_fault_once():
    assert len(planted.FAULTS) >= 24
    assert len({fault.name for fault in planted.FAULTS}) == len(planted.FAULTS)


@pytest.mark.parametrize("fault", planted.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_named_and_its_twin_is_not(fault, tmp_path):
    diagnosis = diagnosed(fault, tmp_path / "run")
    found = {f.name: f for f in diagnosis.findings}
    assert fault.finding in found, diagnosis.findings
    finding = found[fault.finding]
    assert finding.gravity.name.lower() == fault.gravity
    assert finding.evidence
    assert finding.advice
    for place in finding.where:
        assert Path(place.split(" (")[0].rpartition(":")[0] or place).exists() or Path(place).exists(), place
    assert grave(diagnosis) <= {fault.finding}, diagnosis.findings  # one fault is told once
    json.dumps(diagnosis.to_data(), allow_nan=False)
    twin = diagnosed(fault.healthy, tmp_path / "twin")
    assert grave(twin) == set(), twin.findings
    assert fault.finding not in {f.name for f in twin.findings}


@pytest.mark.parametrize("run", planted.NATURAL, ids=lambda run: run.name)
def test_what_is_natural_raises_no_alarm(run, tmp_path):
    assert grave(diagnosed(run, tmp_path / "run")) == set()
