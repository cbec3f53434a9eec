"""Every fault of `make faults`, short: what becomes of others and what is said, never how fast."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from models.bundle import Bundle
from tests.conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))  # scripts import their neighbours by name

from bystander_load import GAPS, WRONG
from checked_rows import CheckedRows, checked_rows
from faults import ALONE, Outcome, outcome_of
from faults_site import QUICK, Finding, Skipped, site, unharmed
from faults_survived import SURVIVED, survivor

pytestmark = pytest.mark.slow

POOL = 200
AT_ONCE = (
    ("hang-ups",),  # descriptors are counted, which others open and close
    ("poisoned-rows", "clock-jump", "full-disk", "altered-reload"),
    ("slow-clients", "idle-connections"),  # these keep new gRPC clients out for a while
)
MISLED = "bystanders that expect other exits"


@pytest.fixture(scope="module")
def rows(bundle: Bundle) -> CheckedRows:
    return checked_rows(bundle, POOL)


@pytest.fixture(scope="module")
def survived(
    bundle: Bundle, rows: CheckedRows, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    """What one server has to survive."""
    folder = tmp_path_factory.mktemp("survived")
    misled = replace(rows, exits=rows.exits % bundle.manifest.depth + 1)
    with survivor([*SURVIVED], bundle, rows, QUICK, folder) as (place, skipped):
        made: dict[str, Outcome] = {name: Skipped(why) for name, why in skipped.items()}
        with site(place.server, misled, replace(QUICK, seconds=0.5), folder) as wrong:
            made[MISLED] = unharmed(wrong, lambda _: Finding())
        for names in AT_ONCE:
            rest = [name for name in names if name not in made]
            faults = [partial(unharmed, place, SURVIVED[name].make) for name in rest]
            with ThreadPoolExecutor(len(names)) as pool:
                made |= zip(rest, pool.map(outcome_of, faults), strict=True)
    return made


def check(outcome: Outcome) -> None:
    if isinstance(outcome, Skipped):
        assert "CI" not in os.environ, outcome
        pytest.skip(str(outcome))
    assert outcome.mishaps == []
    assert outcome.figures


@pytest.mark.parametrize("name", SURVIVED)
def test_nobody_else_notices_a_fault_that_the_server_survives(
    name: str, survived: dict[str, Outcome]
) -> None:
    check(survived[name])


def test_bystanders_notice_answers_that_are_not_the_right_ones(
    survived: dict[str, Outcome],
) -> None:
    finding = survived[MISLED]
    assert isinstance(finding, Finding)
    noticed = [mishap for mishap in finding.mishaps if WRONG in mishap]
    assert all(any(door in mishap for mishap in noticed) for door in GAPS)


@pytest.mark.parametrize("name", ALONE)
def test_a_fault_has_the_outcome_that_it_must_have(
    name: str, bundle: Bundle, rows: CheckedRows, tmp_path: Path
) -> None:
    check(outcome_of(partial(ALONE[name].make, bundle, rows, QUICK, tmp_path)))
