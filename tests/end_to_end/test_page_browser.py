"""The playground as people use it: real clicks in a real browser, on a real server."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from starlette.types import ASGIApp

from models.bundle import Bundle, write_bundle
from service.dataplane import Dataplane
from tests.browser import chromium, complaints, screenshot, show
from tests.service.conftest import app_over, cold_dataplane
from tests.small_bundles import small_bundle

PHONE, DESKTOP = 360, 1280
KEY = "correct-horse-battery"
MARKUP = '<img src=x onerror="window.hacked = 1">'

pytestmark = pytest.mark.slow


@contextmanager
def answering(app: ASGIApp) -> Iterator[str]:
    """The address of a real server; connections wait in the socket until it accepts them."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            assert not thread.is_alive()


@contextmanager
def warm(bundle: Bundle) -> Iterator[Dataplane]:
    plane = cold_dataplane(bundle)
    asyncio.run(plane.warm_up())
    assert plane.ready, plane.reason
    yield plane
    plane.close()


@contextmanager
def serving(bundle: Bundle) -> Iterator[str]:
    with warm(bundle) as plane, answering(app_over(plane)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with chromium() as page:
        yield page


@pytest.fixture(scope="module")
def plane(bundle: Bundle) -> Iterator[Dataplane]:
    with warm(bundle) as plane:
        yield plane


@pytest.fixture(scope="module")
def address(plane: Dataplane) -> Iterator[str]:
    with answering(app_over(plane)) as address:
        yield address


@pytest.fixture(scope="module")
def examples(address: str) -> list[dict[str, Any]]:
    return httpx.get(f"{address}/ui/examples").json()


def wait(browser: Chrome, until: Callable[[Chrome], Any]) -> Any:
    return WebDriverWait(browser, 20).until(until)


def one(browser: Chrome, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def every(browser: Chrome, selector: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def open_page(
    browser: Chrome,
    address: str,
    width: int = DESKTOP,
    scheme: Literal["light", "dark"] = "light",
) -> None:
    """Open the page and wait until it can be used."""
    complaints(browser)  # those of the page before
    show(browser, f"{address}/ui", width, scheme)
    wait(browser, lambda b: one(b, "#send").is_enabled())


def answered(browser: Chrome, act: Callable[[], Any]) -> str:
    """Do something that sends a row; what the page then says about where it left."""
    browser.execute_script("document.getElementById('summary').replaceChildren()")
    act()
    wait(browser, lambda b: every(b, "#left") or one(b, "#fault").is_displayed())
    return one(browser, "#left").text


def refused(browser: Chrome, act: Callable[[], Any]) -> str:
    """Do something that is not answered; what the page says to it."""
    act()
    wait(browser, lambda b: one(b, "#fault").is_displayed())
    return one(browser, "#fault").text


def choose(browser: Chrome, policy: str) -> Callable[[], None]:
    return lambda: one(browser, f"input[value='{policy}']").click()


def percent(share: float) -> str:
    return f"{share * 100:.{1 if 0 < share * 100 < 9.95 else 0}f}%"


def predict(address: str, row: Any, **fields: Any) -> dict[str, Any]:
    response = httpx.post(f"{address}/predict", json={"rows": [row], **fields})
    assert response.status_code == 200, response.text
    return response.json()["rows"][0]


def cells(browser: Chrome) -> dict[str, list[WebElement]]:
    """The cells of every label, one per exit."""
    rows = every(browser, "#exits tbody tr")
    return {
        row.find_element(By.TAG_NAME, "th").text: row.find_elements(By.TAG_NAME, "td")
        for row in rows
    }


def check_answer(browser: Chrome, address: str, row: Any) -> None:
    """What the page shows of a row is what the door says of it."""
    expected = predict(address, row, all_exits=True)
    assert one(browser, "#left").text == f"Left at exit {expected['exit']} of {expected['exits']}"
    here = every(browser, "#exits thead th")
    current = [head.get_attribute("aria-current") for head in here]
    assert current.index("step") == expected["exit"] - 1
    chips = [chip.text for chip in every(browser, "#summary .chips li")]
    assert chips == [f"{e['name']} {percent(e['probability'])}" for e in expected["labels"]]
    shown = cells(browser)
    assert len(shown) >= min(12, len(expected["probabilities"]))
    for name, exits in shown.items():
        for cell, answer in zip(exits, expected["all_exits"], strict=True):
            value = cell.find_element(By.CSS_SELECTOR, ".value").text.split()[0]
            probability = answer["probabilities"][name]
            assert float(value[:-1]) == pytest.approx(probability * 100, abs=0.6)
            width = cell.find_element(By.CSS_SELECTOR, ".bar").value_of_css_property("width")
            assert width.endswith("px")
            chosen = name in {label["name"] for label in answer["labels"]}
            assert ("chosen" in cell.get_attribute("class").split()) == chosen


@pytest.mark.parametrize("number", range(6))
def test_an_example_shows_its_answer_at_every_exit(
    browser: Chrome, address: str, examples: list[dict[str, Any]], number: int
) -> None:
    open_page(browser, address)
    answered(browser, every(browser, ".examples button")[number].click)
    check_answer(browser, address, examples[number]["row"])
    assert complaints(browser) == []


def test_the_bars_are_as_long_as_the_probabilities(
    browser: Chrome, address: str, examples: list[dict[str, Any]]
) -> None:
    open_page(browser, address)
    answered(browser, every(browser, ".examples button")[0].click)
    probabilities = predict(address, examples[0]["row"])["probabilities"]
    for name, exits in cells(browser).items():
        widths = browser.execute_script(
            "return arguments[0].map(cell => cell.querySelector('.bar').style.width)", exits
        )
        left = one(browser, "#exits thead .here")
        at = every(browser, "#exits thead th").index(left)
        assert float(widths[at][:-1]) == pytest.approx(probabilities[name] * 100, abs=0.6)


def test_the_policy_can_be_switched(browser: Chrome, address: str) -> None:
    open_page(browser, address)
    assert answered(browser, every(browser, ".examples button")[0].click) == "Left at exit 1 of 4"
    assert answered(browser, choose(browser, "full")) == "Left at exit 4 of 4"
    assert one(browser, "#summary .badge").text == "certified"
    assert answered(browser, choose(browser, "exit:2")) == "Left at exit 2 of 4"
    assert one(browser, "#summary .badge").text == "not certified"
    assert complaints(browser) == []


def test_what_the_server_refuses_is_told_in_its_words(browser: Chrome, address: str) -> None:
    open_page(browser, address)
    assert "pick an example" in refused(browser, one(browser, "#send").click)
    one(browser, "#deadline").send_keys("-3")
    act = every(browser, ".examples button")[0].click
    wait_for = "deadline_ms: found -3.0, expected a number of milliseconds over 0"
    act()
    wait(browser, lambda b: wait_for in one(b, "#fault").text)
    assert all("400" in line for line in complaints(browser))
    one(browser, "#deadline").clear()
    assert answered(browser, one(browser, "#send").click).startswith("Left at exit 1")
    assert not one(browser, "#fault").is_displayed()


def test_the_page_can_be_used_without_a_mouse(browser: Chrome, address: str) -> None:
    open_page(browser, address)
    keys = ActionChains(browser)
    assert answered(browser, keys.send_keys(Keys.TAB, Keys.TAB, Keys.SPACE).perform)
    second = every(browser, ".examples button")[1]
    assert browser.switch_to.active_element == second
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.execute_script(outline) == "solid"
    while browser.switch_to.active_element.get_attribute("name") != "policy":
        ActionChains(browser).send_keys(Keys.TAB).perform()
    arrow = ActionChains(browser).send_keys(Keys.ARROW_RIGHT)
    assert answered(browser, arrow.perform) == "Left at exit 4 of 4"


def test_an_image_file_becomes_a_row_of_numbers(
    browser: Chrome, address: str, examples: list[dict[str, Any]], tmp_path: Path
) -> None:
    row = np.array(examples[0]["row"])
    pixels = (row[0] * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "digits.png")
    open_page(browser, address)
    file = one(browser, "input[type=file]")
    answered(browser, lambda: file.send_keys(str(tmp_path / "digits.png")))
    check_answer(browser, address, (pixels[None] / 255).tolist())
    (tmp_path / "no.png").write_text("a text")
    error = refused(browser, lambda: file.send_keys(str(tmp_path / "no.png")))
    assert error == "The file is no image that this browser can read."
    assert complaints(browser) == []


def test_a_row_can_be_drawn(browser: Chrome, address: str) -> None:
    open_page(browser, address)
    pad = one(browser, ".pad")
    stroke = ActionChains(browser).move_to_element_with_offset(pad, -20, -60).click_and_hold()
    stroke = stroke.move_by_offset(0, 100).release()
    assert answered(browser, stroke.perform).startswith("Left at exit")
    lit = browser.execute_script(
        "const c = document.querySelector('.pad');"
        "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
        ".filter((v, k) => k % 4 === 0 && v > 128).length"
    )
    assert lit > 1000
    assert complaints(browser) == []


def test_the_live_figures_follow_the_service(browser: Chrome, address: str) -> None:
    open_page(browser, address)
    answered(browser, every(browser, ".examples button")[3].click)
    stats = httpx.get(f"{address}/stats").json()
    wait(browser, lambda b: f"rows\n{stats['rows']}" in one(b, "#live").text)
    shares = [value.text for value in every(browser, ".shares .value")]
    assert shares == [percent(exit_["share"]) for exit_ in stats["exits"]]
    assert "certified" in one(browser, "#live").text
    assert one(browser, "#ready").get_attribute("title") == "ready"


def test_the_layers_are_drawn(browser: Chrome, address: str, bundle: Bundle) -> None:
    open_page(browser, address)
    pictures = every(browser, "#depth svg")
    assert len(pictures) == 3
    for picture, key in zip(pictures, ("to_labels", "to_teacher"), strict=False):
        spoken = picture.get_attribute("aria-label")
        for layer in bundle.manifest.profile.layers:
            assert f"{layer.layer} {getattr(layer, key).w2.value:.3f}" in spoken
        assert len(picture.find_elements(By.CSS_SELECTOR, ".marker")) == 4
    outside = browser.execute_script(
        """
        return [...document.querySelectorAll('#depth svg')].flatMap(svg => {
          const box = svg.getBoundingClientRect();
          return [...svg.querySelectorAll('text')].filter(text => {
            const r = text.getBoundingClientRect();
            return r.left < box.left - 1 || r.right > box.right + 1 || r.bottom > box.bottom + 1;
          }).map(text => text.textContent);
        });
        """
    )
    assert outside == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_it_fits_and_can_be_read(
    browser: Chrome,
    address: str,
    tmp_path: Path,
    width: int,
    scheme: Literal["light", "dark"],
) -> None:
    """No sideways scrolling; WCAG's contrast of at least 4.5 for all letters, 3 for large ones."""
    open_page(browser, address, width, scheme)
    answered(browser, every(browser, ".examples button")[1].click)
    screenshot(browser, tmp_path / f"{width}-{scheme}.png")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    faint = browser.execute_script(CONTRAST)
    assert faint == []
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 128) == (scheme == "dark")
    assert complaints(browser) == []


CONTRAST = """
const parts = colour => colour.match(/[\\d.]+/g).map(Number);
const linear = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255)
  + 0.0722 * linear(b / 255);
function ground(node) {
  for (; node; node = node.parentElement) {
    const colour = parts(getComputedStyle(node).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
}
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const faint = [];
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || !node.checkVisibility()) continue;
  if (node.closest('.unseen, noscript')) continue;
  const style = getComputedStyle(node);
  const pair = [node.closest('svg') ? style.fill : style.color].map(parts).map(luminance);
  pair.push(luminance(ground(node)));
  const [low, high] = pair.sort((a, b) => a - b);
  const needed = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
  if ((high + 0.05) / (low + 0.05) < needed) faint.push(walker.currentNode.textContent.trim());
}
return faint;
"""


def test_a_locked_server_asks_for_a_key(browser: Chrome, plane: Dataplane, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY + "\n")
    with answering(app_over(plane, keys_file=tmp_path / "keys")) as address:
        show(browser, f"{address}/ui", DESKTOP)
        field = wait(browser, lambda b: one(b, "#key").is_displayed() and one(b, "#key"))
        field.send_keys("wrong", Keys.ENTER)
        wait(browser, lambda b: "not known" in one(b, "#lock-reason").text)
        one(browser, "#key").send_keys(KEY, Keys.ENTER)
        wait(browser, lambda b: one(b, "#send").is_enabled())
        assert not one(browser, "#lock").is_displayed()
        assert answered(browser, every(browser, ".examples button")[0].click)
        wait(browser, lambda b: "rows" in one(b, "#live").text)
        kept = "return [localStorage.length, sessionStorage.length, document.cookie]"
        assert browser.execute_script(kept) == [0, 0, ""]
        assert KEY not in browser.page_source
        assert all("401" in line for line in complaints(browser))


def test_a_user_without_a_key_is_told_so(browser: Chrome, plane: Dataplane, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY + "\n")
    with answering(app_over(plane, keys_file=tmp_path / "keys")) as address:
        show(browser, f"{address}/ui", DESKTOP)
        wait(browser, lambda b: one(b, "#lock-cancel").is_displayed())
        one(browser, "#lock-cancel").click()
        wait(browser, lambda b: "no key" in one(b, "#notice").text)
        assert not one(browser, "#send").is_enabled()
        complaints(browser)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A text bundle whose label names are markup."""
    folder = tmp_path_factory.mktemp("texts")
    plain = small_bundle(folder / "plain", "text")
    manifest = plain.manifest
    labels = (MARKUP, *manifest.labels[1:])
    marked = manifest.model_copy(update={"labels": labels, "name": MARKUP})
    with serving(write_bundle(folder / "marked", marked, plain.files)) as address:
        yield address


def test_a_text_is_typed_and_answered(browser: Chrome, texts: str) -> None:
    open_page(browser, texts)
    field = one(browser, "#text")
    field.send_keys("w1 w2 ü")
    answered(browser, lambda: field.send_keys(Keys.CONTROL, Keys.ENTER))
    check_answer(browser, texts, "w1 w2 ü")
    field.send_keys(" w3")
    answered(browser, one(browser, "#send").click)
    check_answer(browser, texts, "w1 w2 ü w3")
    assert complaints(browser) == []


def test_names_are_text_and_never_markup(browser: Chrome, texts: str) -> None:
    open_page(browser, texts)
    one(browser, "#text").send_keys("w1")
    answered(browser, one(browser, "#send").click)
    assert MARKUP in cells(browser)
    assert one(browser, "#name").text == MARKUP
    assert browser.execute_script("return window.hacked") is None
    assert every(browser, "main img") == []
    assert complaints(browser) == []


def test_an_image_file_is_sent_as_it_is(browser: Chrome, tmp_path: Path) -> None:
    with serving(small_bundle(tmp_path / "images", "image")) as address:
        Image.new("RGB", (12, 10), "teal").save(tmp_path / "teal.png")
        open_page(browser, address)
        file = one(browser, "input[type=file]")
        answered(browser, lambda: file.send_keys(str(tmp_path / "teal.png")))
        assert one(browser, ".view").is_displayed()
        (tmp_path / "no.png").write_text("a text")
        error = refused(browser, lambda: file.send_keys(str(tmp_path / "no.png")))
        assert "no image that can be read" in error


def test_numbers_are_typed_and_counted(browser: Chrome, tmp_path: Path) -> None:
    with serving(small_bundle(tmp_path / "numbers", "numbers")) as address:
        open_page(browser, address)
        field = one(browser, "#numbers")
        field.send_keys("1, 2, 3, 4, 5")
        error = refused(browser, one(browser, "#send").click)
        assert error == "Found 5 numbers, expected 6."
        field.send_keys(", x")
        act = one(browser, "#send").click
        act()
        wait(browser, lambda b: "expected a number" in one(b, "#fault").text)
        field.send_keys(Keys.BACKSPACE, "-0.5")
        answered(browser, one(browser, "#send").click)
        check_answer(browser, address, [1, 2, 3, 4, 5, -0.5])
        assert complaints(browser) == []
