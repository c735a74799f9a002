"""Screenshots for the documentation, taken on the way of a test."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


def picture(page: Page, name: str) -> None:
    """Keep what a page shows in docs/images."""
    page.wait_for_timeout(500)
    IMAGES.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(page.screenshot())) as taken:  # of few colours: a third of the bytes
        taken.convert("RGB").quantize(128).save(IMAGES / f"{name}.png", optimize=True)


def fits(page: Page) -> None:
    """Fail where a page is wider than its window."""
    assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("window.innerWidth")
