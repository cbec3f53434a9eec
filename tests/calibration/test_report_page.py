from __future__ import annotations

import re
import subprocess
import sys
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from calibration.report_page import write_report
from models.manifest import Manifest
from models.measurements import Comparison, Estimate
from tests.manifests import full_manifest

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"labels": 3, "layers": 2, "exits": 2, "epochs": 1}
QUICK = (Phase.explicit, Phase.reuse, Phase.generate)  # shrinking would draw hundreds of pages
TINY = {"labels": 3, "layers": 1, "exits": 1, "epochs": 0}


class Page(HTMLParser):
    """What a browser makes of the page.

    elements : (tag, attributes) in order
    tables : rows of cells, each by the words above the table
    text : what stands between the tags
    """

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._row: list[str] | None = None
        self._box = ""
        self.source = write_report(manifest).decode()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attributes}
        self.elements.append((tag, named))
        if named.get("class") == "scroll":
            self._box = named["aria-label"]
            self.tables[self._box] = []
        elif tag == "tr":
            self._row = []
            self.tables[self._box].append(self._row)
        elif tag in ("td", "th") and self._row is not None:
            self._row.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self._row = None

    def handle_data(self, data: str) -> None:
        if self.elements[-1:] and self.elements[-1][0] == "style":
            return
        self.text += data
        if self._row:
            self._row[-1] += data

    def table(self, words: str) -> list[list[str]]:
        """Rows of the one table that these words stand above, its heads first."""
        (found,) = (rows for caption, rows in self.tables.items() if words in caption)
        return found

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return full_manifest()


@pytest.fixture(scope="module")
def page(manifest: Manifest) -> Page:
    return Page(manifest)


def changed(manifest: Manifest, **parts: Any) -> Manifest:
    return manifest.model_copy(update=parts)


def test_the_guarantee_is_the_first_thing_to_read(manifest: Manifest, page: Page) -> None:
    text = page.text[page.text.index("calibration report", page.text.index("offramp")) :]
    assert text.index("Certified") < text.index(manifest.certificate.sentence) < 200
    assert text.index(manifest.certificate.sentence) < text.index(manifest.warnings[0])
    assert "Not certified" not in page.text


def test_what_is_not_certified_says_so(manifest: Manifest) -> None:
    refused = manifest.certificate.model_copy(
        update={"certified": False, "policies_passed": 0, "sentence": "Nothing is promised."}
    )
    page = Page(changed(manifest, certificate=refused))
    assert "Not certified: the full-depth policy is deployed" in page.text
    assert "the last that passed is deployed" not in page.text


@settings(max_examples=5, deadline=None, phases=QUICK)
@given(f1=st.tuples(*[st.floats(0, 1)] * 2), time=st.tuples(*[st.floats(0, 2)] * 2))
def test_the_policy_is_shown_with_the_numbers_of_the_manifest(
    f1: tuple[float, float], time: tuple[float, float]
) -> None:
    manifest = full_manifest(**TINY)
    difference = Estimate(value=f1[0] - f1[1], low=-1, high=1)
    micro = Comparison(policy=f1[0], full_depth=f1[1], difference=difference)
    policy = manifest.test.policy.model_copy(
        update={"micro_f1": micro, "computed_time": time[0], "computed_time_single": time[1]}
    )
    test = manifest.test.model_copy(update={"policy": policy})
    page = Page(changed(manifest, test=test))
    assert (
        f"micro-F1 is {f1[0]:.4f}, at full depth {f1[1]:.4f}; a row takes {time[0]:.1%} of the "
        f"time of the model without exits at batch 32, and {time[1]:.1%} at batch 1."
    ) in page.text
    measured = page.table("paired bootstrap")
    assert measured[0][0] == "measured, not certified"
    assert measured[1][1:3] == [f"{f1[0]:.4f}", f"{f1[1]:.4f}"]


def test_exits_are_those_of_the_manifest(manifest: Manifest, page: Page) -> None:
    _, *rows = page.table("as if all rows left there")
    for row, exit_, measured in zip(rows, manifest.exits, manifest.test.exits, strict=True):
        w = measured.w_labels
        threshold = "all others" if exit_.threshold is None else f"{exit_.threshold:.3f}"
        assert row[:4] == [str(exit_.number), exit_.layer, str(len(exit_.carry)), threshold]
        assert row[5] == f"{w.value:.3f} ({w.low:.3f} to {w.high:.3f})"
        assert row[7] == f"{measured.share_leaving:.1%}"


def test_an_exit_that_is_off_is_called_off(manifest: Manifest) -> None:
    first = manifest.exits[0].model_copy(update={"threshold": None})
    page = Page(changed(manifest, exits=(first, *manifest.exits[1:])))
    assert page.table("as if all rows left there")[1][3] == "off"
    assert "exit 1, off" in page.text


def test_distances_have_a_line_per_layer_and_the_noise_floor(
    manifest: Manifest, page: Page
) -> None:
    for target, floor in (
        ("labels", manifest.profile.floor_labels.w2),
        ("teacher", manifest.profile.floor_teacher.w2),
    ):
        rows = page.table(f"Distances to the {target}")
        assert [row[0] for row in rows[1:-1]] == [la.layer for la in manifest.profile.layers]
        assert rows[-1][:2] == [
            "noise floor",
            f"{floor.value:.3f} ({floor.low:.3f} to {floor.high:.3f})",
        ]


def test_labels_are_listed_from_the_worst_change_on(manifest: Manifest, page: Page) -> None:
    _, *rows = page.table("worst change first")
    changes = [float(row[-1]) for row in rows]
    assert changes == sorted(changes)
    assert {row[0] for row in rows} == set(manifest.labels)
    lose = sum(label.f1 < label.f1_full_depth for label in manifest.test.labels)
    assert f"while {lose} of 28 labels lose" in page.text
    assert f"The worst is {rows[0][0]}" in page.text


def test_labels_without_a_promise_come_first_with_what_they_need(
    manifest: Manifest, page: Page
) -> None:
    _, *rows = page.table("Labels on the certify split")
    refused = [floor for floor in manifest.certificate.label_floor if floor.mean_loss is None]
    assert refused
    for row, floor in zip(rows, refused, strict=False):
        assert row[0] == floor.label
        assert "too few positives" in row[1]
        assert row[2:4] == [str(floor.positives), str(floor.needed)]


def test_every_promise_is_in_the_table(manifest: Manifest, page: Page) -> None:
    _, *rows = page.table("Promises on")
    assert [row[0] for row in rows] == [p.guarantee for p in manifest.certificate.promises]
    assert [row[3] for row in rows] == ["2%", "1%"]


def test_every_way_is_compared_at_the_quality_of_the_policy(manifest: Manifest, page: Page) -> None:
    _, *rows = page.table("flatters")
    wanted = manifest.test.policy.micro_f1.policy
    for row, curve in zip(rows, manifest.test.curves, strict=True):
        reached = [point.time for point in curve.points if point.micro_f1 >= wanted]
        assert row[:2] == [curve.method, f"{min(reached):.1%}" if reached else "-"]


def test_origin_is_complete(manifest: Manifest, page: Page) -> None:
    _, *splits = page.table("Splits")
    assert [row[1] for row in splits] == [facts.sha256 for facts in manifest.splits.values()]
    facts = dict(page.table("As recorded"))
    assert facts["seed"] == "0"
    assert facts["versions.numpy"] == manifest.facts["versions"]["numpy"]
    assert facts["options.guarantee.epsilon"] == "0.02"
    assert facts["command.data"] == "goemotions.csv"
    assert facts["training.epochs"] == "12 (shown above)"


def test_pictures_have_words_for_who_cannot_see_them(page: Page) -> None:
    pictures = page.named("svg")
    assert len(pictures) == 9
    assert all(picture["role"] == "img" for picture in pictures)
    assert all(re.search(r"\d", picture["aria-label"]) for picture in pictures)


def test_ids_are_unique_and_every_reference_inside_the_page_is_met(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = re.findall(r'(?:href="#|url\(#)([^")]+)', page.source)
    assert len(referred) > 50
    assert set(referred) <= set(ids)


def test_the_page_asks_for_nothing_from_outside(page: Page) -> None:
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name.split(":")[-1] in ("href", "src", "srcset", "action", "data", "poster")
    ]
    assert addresses
    assert [address for address in addresses if not address.startswith(("#", "data:"))] == []
    assert "://" not in page.source
    assert re.findall(r"url\((?!#)|@import", page.source) == []
    assert page.named("script") == []


@settings(max_examples=8, deadline=None, phases=QUICK)
@given(
    names=st.lists(st.text(min_size=1, max_size=30), min_size=3, max_size=3, unique=True),
    harm=st.sampled_from(
        ["<script>alert(1)</script>", "</title><img src=x onerror=alert(1)>", "\"'<&amp;>", "$x$"]
    ),
)
@example(names=["0", "1", "2"], harm="喜び")  # no font of matplotlib's has it
def test_names_are_shown_as_they_are_whatever_is_in_them(names: list[str], harm: str) -> None:
    names = [harm, *(name for name in names if name != harm)][:3]
    page = Page(renamed(full_manifest(**TINY), names))
    plain = Page(full_manifest(**TINY))
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements}
    assert page.named("title") == plain.named("title")
    assert {row[0] for row in page.table("worst change first")[1:]} == set(names)


def test_the_same_manifest_gives_the_same_bytes_in_another_process(manifest: Manifest) -> None:
    code = (
        "from hashlib import sha256\n"
        "from calibration.report_page import write_report\n"
        "from tests.manifests import full_manifest\n"
        "print(sha256(write_report(full_manifest())).hexdigest())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.strip() == sha256(write_report(manifest)).hexdigest()


def test_the_users_style_of_pictures_is_neither_used_nor_changed(manifest: Manifest) -> None:
    wanted = write_report(manifest)
    with matplotlib.rc_context({"svg.fonttype": "path", "font.size": 30, "axes.linewidth": 5}):
        before = dict(matplotlib.rcParams)
        assert write_report(manifest) == wanted
        assert dict(matplotlib.rcParams) == before


def test_without_training_there_is_nothing_by_epoch() -> None:
    assert "by epoch" in Page(full_manifest(**SMALL)).text
    assert "by epoch" not in Page(full_manifest(**{**SMALL, "epochs": 0})).text


def test_one_exit_has_no_thresholds_and_no_scores_to_compare() -> None:
    page = Page(full_manifest(**TINY))
    assert "Thresholds from W" not in page.text
    assert "AUROC" not in page.text
    assert "1 layer cannot show one" in page.text


def test_missing_parts_leave_no_trace(manifest: Manifest) -> None:
    certificate = manifest.certificate.model_copy(update={"label_floor": (), "label_epsilon": None})
    policy = manifest.test.policy.model_copy(update={"mean_average_precision": None})
    test = manifest.test.model_copy(update={"policy": policy, "curves": (), "labels": ()})
    page = Page(
        changed(
            manifest,
            certificate=certificate,
            test=test,
            threshold_curves=(),
            warnings=(),
            placement=(),
            facts={},
        )
    )
    assert page.table("paired bootstrap")[3] == ["mean average precision", "-", "-", "-"]
    assert "Labels on the certify split" not in page.text
    assert "warning" not in page.text
    assert "None" not in page.text
    assert page.tables.keys().isdisjoint({"Candidate layers in depth order."})
    assert re.findall(r"\bnan\b", page.text) == []


def test_an_interval_beside_its_value_is_drawn(manifest: Manifest) -> None:
    layer = manifest.profile.layers[0].model_copy(
        update={"micro_f1": Estimate(value=0.5, low=0.51, high=0.52)}
    )
    profile = manifest.profile.model_copy(update={"layers": (layer, *manifest.profile.layers[1:])})
    assert "0.5000 (0.5100 to 0.5200)" in Page(changed(manifest, profile=profile)).text


def test_many_labels_are_folded_and_counted() -> None:
    manifest = full_manifest(labels=983)
    page = Page(manifest)
    assert "943 others are left out" in page.text
    assert len(page.table("worst change first. The rest.")) == 1 + 983 - 40
    assert len(page.source) < 1_000_000


def test_a_usual_page_is_small(page: Page) -> None:
    assert len(page.source.encode()) < 500_000


def renamed(manifest: Manifest, names: list[str]) -> Manifest:
    """The same measurements of labels with other names."""
    floor = [
        one.model_copy(update={"label": name})
        for one, name in zip(manifest.certificate.label_floor, names, strict=True)
    ]
    labels = [
        one.model_copy(update={"label": name})
        for one, name in zip(manifest.test.labels, names, strict=True)
    ]
    return changed(
        manifest,
        labels=tuple(names),
        certificate=manifest.certificate.model_copy(update={"label_floor": tuple(floor)}),
        test=manifest.test.model_copy(update={"labels": tuple(labels)}),
    )
