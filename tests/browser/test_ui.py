"""What a user sees and does in Dagster's UI, by clicking, in a real browser."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from dlgforge_core.database.database import Database
from dlgforge_core.database.embedded import embedded_dsn, release_embedded
from dlgforge_core.store.run_store import RunStore
from tests.end_to_end.job import Project, run_config
from tests.support.dagster_dev import DagsterDev, dagster_dev, run_workers
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(600)


def endpoint_env(sim: SimulatedEndpoint) -> dict[str, str]:
    return {
        "LLM_BACKEND": "openai",
        "LLM_MODEL": "simulated",
        "OPENAI_BASE_URL": sim.base_url,
        "OPENAI_API_KEY": "sk-test",
    }


def show_markdown(page: Page, dev: DagsterDev, asset: str, key: str) -> Locator:
    """Open what the asset page shows under a key of the metadata."""
    page.goto(f"{dev.url}/assets/{asset}?view=overview")
    row = page.get_by_role("row").filter(has=page.get_by_text(key, exact=True)).last
    row.get_by_text("Show Markdown").click()
    return page.get_by_role("dialog")


def test_cancel_by_clicking_stops_the_calls_and_stays_resumable(tmp_path: Path, page: Page) -> None:
    project = Project(tmp_path)
    config = run_config({}, total_samples=30, target_languages=["en"], n_turns=3, concurrency=4)
    with (
        simulated_endpoint(latency_s=0.5, slots=4) as sim,
        dagster_dev(project, **endpoint_env(sim)) as dev,
    ):
        run_id = dev.client.submit_job_execution("generate_dialogues", run_config=config)
        wait_until(lambda: sim.stats()["calls"] > 20, 90, "20 calls")
        page.goto(f"{dev.url}/runs/{run_id}")
        page.get_by_role("button", name="Terminate").click()
        page.get_by_role("button", name="Terminate 1 run").click()
        clicked = time.monotonic()
        assert dev.wait_for_run(run_id, 30) == "CANCELED"
        assert time.monotonic() - clicked < 15
        calls = sim.stats()["calls"]
        page.wait_for_timeout(2000)
        assert sim.stats()["calls"] == calls, "calls go on after the cancel"
        expect(page.get_by_text("Canceled").first).to_be_visible()
        store = RunStore(Database(embedded_dsn(project.home)))
        try:
            assert run_workers(store) == [], "nothing makes dialogues any more"
            record = store.run()
            assert record is not None
            turns = store.progress(record.run_id).turns
            assert 0 < turns < 90
            sim.configure(latency_s=0.01, slots=None)
            again = dev.client.submit_job_execution("generate_dialogues", run_config=config)
            assert dev.wait_for_run(again) == "SUCCESS", dev.log()[-5000:]
            assert store.progress(record.run_id).complete
            # Only what was in flight is asked again: an accepted question or answer never is.
            assert sim.stats()["calls"] <= 90 * 3 + 3 * 4
        finally:
            release_embedded(project.home)
