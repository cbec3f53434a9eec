"""`report.html` as people see it: in a browser, on a phone, in the dark, on paper."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from selenium.webdriver import Chrome

from calibration.report_page import write_report
from models.bundle import Bundle
from tests.browser import chromium, complaints, screenshot, show
from tests.manifests import full_manifest

PAGES: dict[str, dict[str, int]] = {
    "usual": {},
    "one exit": {"labels": 3, "layers": 1, "exits": 1, "epochs": 0},
    "large": {"labels": 983, "layers": 28, "exits": 6, "epochs": 40},
}
PHONE, DESKTOP = 360, 1280

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with chromium() as page:
        yield page


@pytest.fixture(scope="module", params=PAGES)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_bytes(write_report(full_manifest(**PAGES[request.param])))
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_opens_without_a_complaint(
    browser: Chrome, report: Path, tmp_path: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    show(browser, report.as_uri(), width, scheme)
    screenshot(browser, tmp_path / f"{width}-{scheme}.png")
    assert browser.title == "emotions: calibration report"
    assert complaints(browser) == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_report_of_a_real_bundle_opens_without_a_complaint(
    browser: Chrome, bundle: Bundle, tmp_path: Path, width: int
) -> None:
    show(browser, (bundle.path / "report.html").as_uri(), width)
    screenshot(browser, tmp_path / f"{width}.png")
    assert browser.title == "digits: calibration report"
    assert complaints(browser) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    text = browser.find_element("tag name", "body").text
    assert bundle.manifest.certificate.sentence in text
    assert "W-distance by depth" in browser.page_source


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_never_scrolls_sideways(browser: Chrome, report: Path, width: int) -> None:
    show(browser, report.as_uri(), width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_tables_of_many_columns_scroll_in_a_box_of_their_own(browser: Chrome, report: Path) -> None:
    show(browser, report.as_uri(), PHONE)
    hidden = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')]"
        ".filter(box => box.scrollWidth > box.clientWidth)"
        ".map(box => getComputedStyle(box).overflowX)"
    )
    assert hidden
    assert set(hidden) == {"auto"}


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_letters_of_pictures_are_whole_and_large_enough(
    browser: Chrome, report: Path, width: int
) -> None:
    show(browser, report.as_uri(), width)
    texts = _texts_of_pictures(browser)
    assert texts
    outside = [text["says"] for text in texts if text["outside"] > 2]
    assert outside == []
    assert min(text["size"] for text in texts) >= 7  # CSS pixels


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_letters_stand_out_from_the_ground(
    browser: Chrome, report: Path, scheme: Literal["light", "dark"]
) -> None:
    """WCAG's contrast of at least 4.5 for the letters on the page's own ground."""
    show(browser, report.as_uri(), DESKTOP, scheme)
    ground = _colour(browser, "document.body", "backgroundColor")
    assert (_luminance(ground) < 0.1) == (scheme == "dark")
    for element, property_ in (
        ("document.body", "color"),
        ("document.querySelector('.caption')", "color"),
        ("document.querySelector('.guarantee strong')", "color"),
        ("document.querySelector('nav a')", "color"),
        ("document.querySelector('#depth svg text')", "fill"),
    ):
        assert _contrast(_colour(browser, element, property_), ground) >= 4.5, element


def test_paper_is_white_and_shows_whole_tables(
    browser: Chrome, report: Path, tmp_path: Path
) -> None:
    show(browser, report.as_uri(), DESKTOP, "dark")
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    pdf = base64.b64decode(printed["data"])
    (tmp_path / "report.pdf").write_bytes(pdf)
    assert pdf.startswith(b"%PDF")
    paper = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", paper)
    assert _luminance(_colour(browser, "document.body", "backgroundColor")) == 1
    boxes = "getComputedStyle(document.querySelector('.scroll')).overflowX"
    assert browser.execute_script(f"return {boxes}") == "visible"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def _texts_of_pictures(browser: Chrome) -> list[dict[str, Any]]:
    """Every text of a picture: its size on screen, and how far it stands out of the picture."""
    texts: list[dict[str, Any]] = browser.execute_script(
        """
        return [...document.querySelectorAll('figure svg')].flatMap(svg => {
          const box = svg.getBoundingClientRect();
          const scale = box.width / svg.viewBox.baseVal.width;
          return [...svg.querySelectorAll('text')].map(text => {
            const r = text.getBoundingClientRect();
            return {
              says: text.textContent,
              size: parseFloat(getComputedStyle(text).fontSize) * scale,
              outside: Math.max(box.left - r.left, r.right - box.right,
                                box.top - r.top, r.bottom - box.bottom),
            };
          });
        });
        """
    )
    return texts


def _colour(browser: Chrome, element: str, property_: str) -> list[float]:
    value = browser.execute_script(f"return getComputedStyle({element}).{property_}")
    return [int(part) / 255 for part in value[value.index("(") + 1 : -1].split(",")[:3]]


def _luminance(colour: list[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(one: list[float], other: list[float]) -> float:
    low, high = sorted([_luminance(one), _luminance(other)])
    return (high + 0.05) / (low + 0.05)
