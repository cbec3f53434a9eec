"""The README's picture, taken from a bundle's report by headless Chromium.

python benchmarks/report_pictures.py bundles/digits docs/digits.png
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from pathlib import Path

from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

PICTURES = ("#depth .pictures", "#quality-cost figure")


def take(report: Path) -> Image.Image:
    """The pictures of the report, one below the other."""
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--disable-dev-shm-usage", "--window-size=1000,900"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    browser = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        browser.get(report.resolve().as_uri())
        shots = [browser.find_element(By.CSS_SELECTOR, css).screenshot_as_png for css in PICTURES]
    finally:
        browser.quit()
    images = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots]
    width = max(image.width for image in images)
    sheet = Image.new("RGB", (width, sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        sheet.paste(image, ((width - image.width) // 2, top))
        top += image.height
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    take(arguments.bundle / "report.html").save(arguments.picture, optimize=True)


if __name__ == "__main__":
    main()
