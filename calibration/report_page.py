"""`report.html`: what was measured, chosen and guaranteed, in one self-contained page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calibration import report_certificate as promised
from calibration import report_quality as quality
from calibration import report_tables as tables
from calibration.report_curves import (
    epoch_pictures,
    quality_cost_picture,
    share_picture,
    threshold_picture,
)
from calibration.report_figures import depth_pictures, heat_map

if TYPE_CHECKING:
    from models.manifest import Manifest

TEMPLATE = "report.html.j2"


def write_report(manifest: Manifest) -> bytes:
    """The page, UTF-8: no script, no request to anywhere, the same bytes for the same manifest.

    Parameters
    ----------
    manifest : complete but for `files` and `digest`, which the page does not show
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("calibration"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        number=tables.number, estimate=tables.estimate, percent=tables.percent
    )
    page = environment.get_template(TEMPLATE).render(
        m=manifest, changes=_changes(manifest), **_pictures(manifest), **_tables(manifest)
    )
    # a lone surrogate, which JSON may hold in a label, has no UTF-8
    return page.encode("utf-8", "replace")


def _pictures(manifest: Manifest) -> dict[str, Any]:
    return {
        "depth": depth_pictures(manifest),
        "epochs": epoch_pictures(manifest),
        "heat_map": heat_map(manifest),
        "thresholds": threshold_picture(manifest),
        "quality_cost": quality_cost_picture(manifest),
        "shares": share_picture(manifest),
    }


def _tables(manifest: Manifest) -> dict[str, tables.Table | tuple[tables.Table, ...] | None]:
    return {
        "exits_table": quality.exits_table(manifest),
        "depth_tables": (*tables.distance_tables(manifest), tables.stability_table(manifest)),
        "curves_table": quality.curves_table(manifest),
        "changes_table": quality.changes_table(manifest),
        "promises_table": promised.promises_table(manifest),
        "floor_table": promised.floor_table(manifest),
        "quality_table": quality.quality_table(manifest),
        "score_table": tables.score_table(manifest),
        "placement_table": tables.placement_table(manifest),
        "cost_table": tables.cost_table(manifest),
        "split_table": tables.split_table(manifest),
        "facts_table": tables.facts_table(manifest),
    }


def _changes(manifest: Manifest) -> dict[str, Any]:
    """How many labels lose and gain, and the one that loses most; all of them equal: None."""
    labels = manifest.test.labels
    differences = [label.f1 - label.f1_full_depth for label in labels]
    worst = min(zip(differences, labels, strict=True), key=lambda pair: pair[0], default=None)
    return {
        "lose": sum(difference < 0 for difference in differences),
        "gain": sum(difference > 0 for difference in differences),
        "worst": worst if worst is not None and worst[0] < 0 else None,
    }
