"""Areas under quality-cost curves."""

from __future__ import annotations

import sys

import pytest

from models.bundle import Bundle
from models.measurements import QualityCurve, QualityPoint
from tests.conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))  # scripts import their neighbours by name

from quality_cost import W_PATH, Made, area, area_table, compared


def curve(*points: tuple[float, float]) -> QualityCurve:
    made = (QualityPoint(time=t, micro_f1=q, set_agreement=0.5) for t, q in points)
    return QualityCurve(method="m", points=tuple(made))


def test_the_area_is_the_mean_of_the_best_for_at_most_that_time() -> None:
    assert area(curve((1.0, 0.9), (0.5, 0.8), (0.2, 0.6)), 0.2, 1.0) == pytest.approx(
        (0.3 * 0.6 + 0.5 * 0.8) / 0.8
    )


def test_a_dearer_setting_that_is_worse_takes_nothing_away() -> None:
    assert area(curve((0.5, 0.4), (0.2, 0.8)), 0.2, 1.0) == pytest.approx(0.8)


def test_a_setting_cheaper_than_the_range_counts_from_its_beginning() -> None:
    assert area(curve((0.1, 0.5), (0.6, 0.7)), 0.2, 1.0) == pytest.approx(
        (0.4 * 0.5 + 0.4 * 0.7) / 0.8
    )


def test_two_ways_are_compared_over_the_times_that_both_reach() -> None:
    one, other = curve((1.0, 0.9), (0.2, 0.6)), curve((1.0, 0.9), (0.6, 0.5))
    assert compared(one, other) == pytest.approx((0.6, 0.5))
    assert compared(one, curve((1.0, 0.9))) is None


def test_the_table_has_a_line_for_every_other_way(bundle: Bundle) -> None:
    table = area_table("digits", [Made(bundle.manifest, "")] * 2)
    known = {line[0]: line[1] for line in table.rows}
    assert known["one threshold"] == known["entropy"] == "2"
    assert W_PATH not in known


def test_ways_that_share_nothing_with_the_w_path_are_left_out(bundle: Bundle) -> None:
    test = bundle.manifest.test
    ours = next(one for one in test.curves if one.method == W_PATH)
    changed = test.model_copy(update={"curves": (ours, curve((9.0, 0.1)))})
    table = area_table("digits", [Made(bundle.manifest.model_copy(update={"test": changed}), "")])
    assert [set(line) for line in table.rows] == [{"-"}]
