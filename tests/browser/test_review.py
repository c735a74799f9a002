"""The review page in a real browser: filtered, read, marked, exported; on a desktop and on a phone."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from dlgforge_core.review.marks import marks_of
from dlgforge_core.store.run_store import RunStore
from tests.browser.pictures import fits
from tests.browser.review_samples import put_samples
from tests.support.review import review_server

pytestmark = pytest.mark.timeout(120)

MARKED = 4


def test_reading_marking_and_exporting(store: RunStore, page: Page) -> None:
    ids = put_samples(store)
    with review_server(store) as address:
        page.goto(address)
        expect(page).to_have_url(re.compile(r"/$"))  # without the token
        expect(page.get_by_role("heading", level=1)).to_have_text("17 dialogues")
        filter_and_search(page)
        page.goto(address)
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("baking bread at home")
        page.get_by_label("Your name").fill("Ada")
        page.get_by_role("button", name="Start marking").click()
        mark_some(page)
        compare_and_export(page, ids)
        edit_and_look(page, store, ids)
        on_a_phone(page)


def filter_and_search(page: Page) -> None:
    """Choose filters, which apply at once, and search."""
    page.get_by_label("Language").select_option("fr")
    expect(page.get_by_role("heading", level=1)).to_have_text("6 dialogues")
    page.get_by_label("Judge’s label").select_option("too_long")
    expect(page.locator(".chip")).to_have_count(2)
    page.keyboard.press("/")
    page.keyboard.type("velo recette")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No dialogue passes these filters.")).to_be_visible()


def mark_some(page: Page) -> None:
    """Mark by keys, one dialogue after the other."""
    for n in range(MARKED):
        heading = page.get_by_role("heading", level=1).inner_text()
        page.keyboard.press("2" if n == 3 else "1")
        expect(page.locator(".choice .chosen")).to_have_count(1)
        expect(page.get_by_role("heading", level=1)).to_have_text(heading)
        if n == 1:
            text = page.locator(".bubble.user .text").first
            assert text.evaluate("e => getComputedStyle(e).direction") == "rtl"
        with page.expect_navigation():
            page.keyboard.press("j")


def compare_and_export(page: Page, ids: list[str]) -> None:
    """See how far the marks agree with the judge, and take them away."""
    page.goto(page.url.split("/d/")[0] + "/agreement")
    expect(page.get_by_text(f"{MARKED} dialogues are marked, 3 of them good")).to_be_visible()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.goto(page.url.replace("/agreement", "/exchange?marked=yes"))
    with page.expect_download() as download:
        page.get_by_role("link", name="Label Studio JSON").click()
    tasks = json.loads(download.value.path().read_text("utf-8"))
    assert [task["data"]["dialogue_id"] for task in tasks] == ids[:MARKED]
    tasks[0]["annotations"] = [
        {"completed_by": {"email": "bob@lab.example"}, "result": tasks[3]["annotations"][0]["result"][:1]}
    ]
    content = json.dumps(tasks[:1]).encode()
    page.get_by_label("The file to import").set_input_files(
        {"name": "tasks.json", "mimeType": "application/json", "buffer": content}
    )
    page.get_by_role("button", name="Import marks").click()
    expect(page.get_by_text("marks kept: 1")).to_be_visible()


def edit_and_look(page: Page, store: RunStore, ids: list[str]) -> None:
    """Put a message in other words, and look at the whole dialogue."""
    page.goto(page.url.split("/exchange")[0] + f"/d/{ids[0]}")
    expect(page.get_by_text("bob@lab.example")).to_be_visible()
    message = page.locator("#m1-assistant")
    message.get_by_text("Edit", exact=True).click()
    message.get_by_role("textbox").fill("In the refrigerator, then.")
    message.get_by_role("button", name="Keep as a revision").click()
    expect(message.get_by_text("edited by Ada")).to_be_visible()
    expect(message.locator(".text").first).to_have_text("In the refrigerator, then.")
    with store.connection() as connection:
        assert [mark.good for mark in marks_of(connection, ids[:1])[ids[0]]] == [True, False]


def on_a_phone(page: Page) -> None:
    """Read and filter on a narrow screen, in the dark: nothing is wider than it."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    page.reload()
    fits(page)
    page.get_by_role("link", name="Next").click()
    expect(page.locator(".bubble").first).to_be_visible()
    fits(page)
    page.locator("#up").click()
    page.get_by_text("Filters", exact=True).click()
    page.get_by_label("Language").select_option("ar")
    expect(page.get_by_role("heading", level=1)).to_have_text("1 dialogue")
    fits(page)
