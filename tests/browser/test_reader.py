"""What a reader does, in a real browser: preview, estimate, materialize, read, mark, compare, export.

The answers are those that a model of 1.5 billion parameters once gave (scripts/record_answers.py), so that
the pictures for the documentation, which are taken on the way, show what it looks like.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Page, ViewportSize, expect

from tests.browser.pictures import fits, picture
from tests.browser.test_ui import endpoint_env, show_markdown
from tests.end_to_end.job import ROOT, Project
from tests.support.dagster_dev import FINISHED, DagsterDev, dagster_dev
from tests.support.simulated_endpoint import simulated_endpoint
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(1500)

RECORDED = ROOT / "tests" / "support" / "recorded"
MODEL = "qwen2.5-coder-1.5b-instruct-q4_k_m"
DIALOGUES = 10
POOR = {"score": 2, "comment": "It makes no sense."}  # where no answer is recorded
SHOWN = "SQLite"  # in the dialogue whose picture is taken
NARROW = ViewportSize(width=390, height=844)


def test_from_the_preview_to_the_export(tmp_path: Path, page: Page) -> None:
    project = Project(tmp_path)
    config = yaml.safe_load((RECORDED / "run.yaml").read_text())
    config["resources"]["llm"]["config"]["model"] = MODEL
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    with simulated_endpoint(recorded=str(RECORDED / "answers.json"), verdict=POOR, latency_s=0.02) as sim:
        env = endpoint_env(sim) | {
            "LLM_MODEL": MODEL,
            "DLGFORGE_RUN_CONFIG": str(tmp_path / "run.yaml"),
            "DLGFORGE_LANGUAGES": ",".join(config["ops"]["dialogues"]["config"]["run"]["target_languages"]),
        }
        with dagster_dev(project, **env) as dev:
            preview(page, dev)
            read_the_estimate(page, dev)
            materialize_all(page, dev)
            look_at_assets(page, dev)
            with review(project) as address:
                page.goto(address)
                follow_the_link(page, dev)
                filter_the_list(page)
                mark_all(page)
                look_at_one(page)
                compare_and_export(page)
                on_a_phone(page)


@contextlib.contextmanager
def review(project: Project) -> Iterator[str]:
    """Start what `make review` starts; gives the address that it prints."""
    command = [sys.executable, "-m", "dlgforge_core.review"]
    process = subprocess.Popen(
        command, cwd=project.folder, env=project.env, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert process.stdout is not None
        yield next(line.strip() for line in process.stdout if "http://" in line)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def preview(page: Page, dev: DagsterDev) -> None:
    """Launch the preview from its job's page, for all partitions in one run."""
    page.goto(f"{dev.url}/locations/dlgforge/jobs/preview_dialogues")
    expect(page.get_by_role("button", name="Materialize all")).to_be_visible()
    page.get_by_role("button", name="arrow_drop_down").click()
    page.get_by_role("menuitem", name="Open launchpad").click()
    launchpad = page.get_by_role("dialog").filter(has_text="Launchpad")
    launchpad.get_by_role("button", name=re.compile("Materialize$")).click()
    page.get_by_role("button", name="Confirm").click()
    wait_until(lambda: ended(dev, 1), 300, f"the preview ends\n{dev.log()[-3000:]}")


def ended(dev: DagsterDev, least: int) -> bool:
    """Whether all runs have ended, and well, and are as many as that at least."""
    runs = [run["status"] for run in dev.runs()]
    if len(runs) < least or not set(runs) <= set(FINISHED):
        return False
    assert set(runs) == {"SUCCESS"}, dev.log()[-5000:]
    return True


def read_the_estimate(page: Page, dev: DagsterDev) -> None:
    page.goto(f"{dev.url}/assets/dialogues?view=events")
    total = page.get_by_role("row").filter(has=page.get_by_role("cell", name="total", exact=True)).last
    expect(total).to_contain_text("$")
    expect(page.get_by_text(f"The whole plan is {DIALOGUES} dialogues")).to_be_visible()
    picture(page, "estimate")


def materialize_all(page: Page, dev: DagsterDev) -> None:
    """Launch a backfill of all partitions of all assets, and wait for its end."""
    page.goto(f"{dev.url}/locations/dlgforge/asset-groups/dlgforge")
    page.get_by_role("button", name="Materialize all").click()
    dialog = page.get_by_role("dialog")
    every = dialog.get_by_role("button", name="All", exact=True)
    expect(every).to_have_count(2)
    expect(dialog.get_by_text("0 partitions")).to_be_visible()
    for button in every.all():
        button.click()
    expect(dialog.get_by_text("2 partitions")).to_be_visible()
    dialog.get_by_role("button", name="Launch backfill").click()
    wait_until(lambda: dev.materialized("dialogue_dataset"), 600, "the dataset is written")
    wait_until(lambda: ended(dev, 3), 120, "all runs end")


def look_at_assets(page: Page, dev: DagsterDev) -> None:
    usual = page.viewport_size
    page.set_viewport_size({"width": 2400, "height": 700})  # else the assets shrink to their names
    page.goto(f"{dev.url}/locations/dlgforge/asset-groups/dlgforge")
    expect(page.get_by_text("Materialized").first).to_be_visible()
    picture(page, "lineage")
    if usual:
        page.set_viewport_size(usual)
    samples = show_markdown(page, dev, "dialogues", "samples")
    for who in ("User", "Assistant"):
        expect(samples.get_by_text(who, exact=True).first).to_be_visible()
    samples.get_by_role("heading", name="volcanes").first.evaluate("e => e.scrollIntoView()")
    picture(page, "samples")
    plots(page, dev, "dialogues")
    picture(page, "plots-dialogues")
    plots(page, dev, "dialogue_dataset")
    page.goto(f"{dev.url}/assets/dialogues?view=checks")
    for name in ("schema", "unique_questions", "language"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()


def plots(page: Page, dev: DagsterDev, asset: str) -> None:
    image = show_markdown(page, dev, asset, "plots").get_by_role("img", name="plots of the")
    expect(image).to_be_visible()
    assert image.evaluate("i => i.complete && i.naturalWidth") > 800, "the picture is not shown"


def follow_the_link(page: Page, dev: DagsterDev) -> None:
    """Open the review page from the asset's: its link shows that run's dialogues."""
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{DIALOGUES} dialogues")
    page.goto(f"{dev.url}/assets/dialogues?view=overview")
    page.get_by_role("link", name="the dialogues of this run").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{DIALOGUES} dialogues")
    expect(page.locator(".chip").filter(has_text="run: ")).to_be_visible()


def filter_the_list(page: Page) -> None:
    """Choose filters, which apply at once: by order, language, score and state."""
    heading = page.get_by_role("heading", level=1)
    page.get_by_label(re.compile("^Order")).select_option("highest")
    expect(page.locator("a.item").first).to_contain_text("$")
    expect(page.locator("a.item").first).to_contain_text("8/10")
    picture(page, "review-list")
    page.get_by_label(re.compile("^Language")).select_option("es")
    expect(heading).to_have_text("5 dialogues")
    page.get_by_placeholder("from 0").fill("7")
    page.get_by_placeholder("from 0").press("Enter")
    expect(heading).to_have_text("3 dialogues")
    page.get_by_label(re.compile("^State")).select_option("accepted")
    expect(page.locator(".chip")).to_have_count(4)
    expect(heading).to_have_text("3 dialogues")
    page.get_by_label(re.compile("^State")).select_option("dropped")
    expect(page.get_by_text("No dialogue passes these filters.")).to_be_visible()
    for name in ("language: es", "min: 7", "status: dropped"):
        page.locator(".chip").filter(has_text=name).click()
        expect(page.locator(".chip").filter(has_text=name)).to_have_count(0)
    expect(heading).to_have_text(f"{DIALOGUES} dialogues")


def mark_all(page: Page) -> None:
    """Read and mark all of them by keys, one after the other; there and back."""
    page.locator("a.item").first.focus()
    press(page, "Enter")
    page.get_by_label("Your name").fill("Ada")
    with page.expect_navigation():
        page.get_by_role("button", name="Start marking").click()
    chosen = page.locator(".choice .chosen")
    for n in range(DIALOGUES):
        expect(page.locator(".bubble").first).to_be_visible()
        expect(chosen).to_have_count(0)
        press(page, "1" if page.locator(".score.high").count() else "2")
        expect(chosen).to_have_count(1)
        if n < DIALOGUES - 1:
            press(page, "j")
    last = page.url
    press(page, "k")
    assert page.url != last
    press(page, "j")
    expect(chosen).to_have_count(1)
    press(page, "u")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{DIALOGUES} dialogues")


def press(page: Page, key: str) -> None:
    """Press a key that leads to another page, which has its scripts only when it is loaded."""
    with page.expect_navigation():
        page.keyboard.press(key)


def look_at_one(page: Page) -> None:
    """Search a dialogue, and look at the passage that its answer draws on."""
    page.keyboard.press("/")
    page.keyboard.type(SHOWN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("1 dialogue")
    page.locator("a.item").first.click()
    expect(page.locator(".bubble").filter(has_text=SHOWN).first).to_be_visible()
    passage = page.locator("details.passage").first
    passage.locator("summary").click()
    expect(passage).to_contain_text("hoja de cálculo")
    picture(page, "review-dialogue")
    press(page, "u")
    page.locator(".chip").filter(has_text=SHOWN).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{DIALOGUES} dialogues")


def compare_and_export(page: Page) -> None:
    """See how far the marks agree with the judge, and take the dialogues away: all were recorded."""
    page.get_by_role("link", name="Agreement").click()
    expect(page.get_by_text(f"{DIALOGUES} dialogues are marked")).to_be_visible()
    expect(page.locator("tbody tr")).to_have_count(1)
    picture(page, "review-agreement")
    page.locator("#up").click()
    page.get_by_role("link", name="Exchange").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Label Studio JSON").click()
    tasks = json.loads(download.value.path().read_text("utf-8"))
    assert sum(len(task["annotations"]) for task in tasks) == len(tasks) == DIALOGUES
    exported = [[message["text"] for message in task["data"]["dialogue"]] for task in tasks]
    assert sorted(exported) == sorted(recorded())
    page.locator("#up").click()


def recorded() -> list[list[str]]:
    """Return the texts of each recorded dialogue."""
    content: dict[str, Any] = json.loads((RECORDED / "answers.json").read_text("utf-8"))
    return [
        [turn[part] for turn in one["turns"] for part in ("user", "assistant")]
        for one in content["dialogues"]
    ]


def on_a_phone(page: Page) -> None:
    """Read, filter and mark on a narrow screen: nothing is wider than it."""
    page.set_viewport_size(NARROW)
    page.reload()
    fits(page)
    page.locator("a.item").first.click()
    expect(page.locator(".bubble").first).to_be_visible()
    fits(page)
    picture(page, "review-phone")
    page.get_by_role("button", name="Take back").click()
    expect(page.locator(".choice .chosen")).to_have_count(0)
    page.get_by_role("button", name=re.compile("Bad")).click()
    expect(page.locator(".choice .chosen")).to_have_count(1)
    page.locator("#up").click()
    page.get_by_text("Filters", exact=False).first.click()
    page.get_by_label(re.compile("^Marks")).select_option("bad")
    expect(page.locator("a.item").first).to_be_visible()
    fits(page)
    for name in ("Agreement", "Exchange"):
        page.get_by_role("link", name=name).click()
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        fits(page)
        page.locator("#up").click()
