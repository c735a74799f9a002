"""`dagster dev` at work by itself: seed files that arrive, and runs whose process is killed."""

from __future__ import annotations

import contextlib
import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dlgforge_core.database.database import Database
from dlgforge_core.database.embedded import embedded_dsn, release_embedded
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from tests.browser.test_ui import endpoint_env
from tests.end_to_end.job import Project
from tests.support.dagster_dev import (
    FINISHED,
    DagsterDev,
    dagster_dev,
    kill_everything,
    run_workers,
)
from tests.support.postgres import wait_until_stopped
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(900)
LANGUAGES = ["en", "fr"]


class Site:
    """A project with a seed folder that is watched, and its run state."""

    def __init__(self, folder: Path) -> None:
        self.project = Project(folder)
        self.seeds = folder / "seeds"
        self.seeds.mkdir()
        self.dataset = folder / ".dlgforge" / "datasets"
        self.store = RunStore(Database(embedded_dsn(self.project.home)))
        run = {"total_samples": 4, "target_languages": LANGUAGES, "n_turns": 2}
        (folder / "run.yaml").write_text(yaml.safe_dump({"ops": {"dialogues": {"config": {"run": run}}}}))

    def env(self, sim: SimulatedEndpoint, languages: list[str] = LANGUAGES) -> dict[str, str]:
        return endpoint_env(sim) | {
            "DLGFORGE_SEED_FOLDER": str(self.seeds),
            "DLGFORGE_RUN_CONFIG": str(self.project.folder / "run.yaml"),
            "DLGFORGE_LANGUAGES": ",".join(languages),
            "DLGFORGE_SENSOR_INTERVAL_S": "1",
        }

    def drop(self, name: str, languages: list[str] = LANGUAGES, per_language: int = 6) -> None:
        """Put a seed file there."""
        lines = [
            json.dumps({"language": language, "topic": f"{name} {n}, {language}"})
            for language in languages
            for n in range(per_language)
        ]
        (self.seeds / f"{name}.jsonl").write_text("\n".join(lines))

    def done(self) -> Counter[tuple[str, str]]:
        """Finished dialogues by seed batch and language."""
        record = self.store.run()
        if record is None:
            return Counter()
        scope = Scope(fingerprint=record.fingerprint)
        return Counter({(part.batch, part.language): part.done for part in self.store.parts(scope)})


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    site.store.migrate()
    yield site
    release_embedded(site.project.home)
    wait_until_stopped(site.project.home, 20)


def ended(dev: DagsterDev, n: int) -> bool:
    """Whether there are at least `n` runs, all of them at their end."""
    runs = dev.runs()
    return len(runs) >= n and all(run["status"] in FINISHED for run in runs)


def sensor_ticks(dev: DagsterDev, name: str) -> int:
    query = """query ($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor {
        sensorState { ticks(limit: 200) { tickId } } } } }"""
    selector = {
        "repositoryName": "__repository__",
        "repositoryLocationName": "dlgforge",
        "sensorName": name,
    }
    return len(dev.query(query, s=selector)["sensorOrError"]["sensorState"]["ticks"])


def wait_for_ticks(dev: DagsterDev, n: int) -> None:
    before = sensor_ticks(dev, "new_seed_batches")
    wait_until(lambda: sensor_ticks(dev, "new_seed_batches") >= before + n, 120, f"{n} ticks of the sensor")


@pytest.mark.nightly
def test_a_file_dropped_becomes_finished_dialogues_once(site: Site) -> None:
    with simulated_endpoint() as sim, dagster_dev(site.project, **site.env(sim)) as dev:
        site.drop("first")
        expected = Counter({("first", "en"): 2, ("first", "fr"): 2})
        wait_until(lambda: site.done() == expected, 120, "the dialogues of the first file")
        wait_until(lambda: dev.materialized("dialogue_dataset"), 120, "the dataset follows")
        wait_until(lambda: ended(dev, 3), 240, "all runs end")
        made = [run for run in dev.runs() if "dlgforge/seed_digest" in run["tags"]]
        assert len(made) == 2, "one run for each language"

        # The same content again, a broken file, and a file with one language.
        site.drop("first")
        (site.seeds / "broken.jsonl").write_text("{no json\n")
        wait_for_ticks(dev, 4)
        made = [run for run in dev.runs() if "dlgforge/seed_digest" in run["tags"]]
        assert len(made) == 2, "the same content makes no run, nor does a broken file"

        for number in range(4):
            site.drop(f"many-{number}", ["en"])
        expected += Counter({(f"many-{n}", "en"): 2 for n in range(4)})
        wait_until(lambda: site.done() == expected, 400, "the dialogues of four files")
        made = [run for run in dev.runs() if "dlgforge/seed_digest" in run["tags"]]
        assert len(made) == 6
        turns = sum(expected.values()) * 2
        assert sim.stats()["by_role"]["kb_responder"] == turns, "each dialogue is made once"


@pytest.mark.nightly
@pytest.mark.parametrize("killed", ["the run", "everything"])
def test_three_batches_in_four_languages_are_completed_whatever_is_killed(site: Site, killed: str) -> None:
    languages = ["en", "fr", "ar", "es"]
    run = {"total_samples": 8, "target_languages": languages, "n_turns": 2, "concurrency": 4}
    config = {"ops": {"dialogues": {"config": {"run": run}}}}
    (site.project.folder / "run.yaml").write_text(yaml.safe_dump(config))
    for name in ("a", "b", "c"):
        site.drop(name, languages)
    expected = Counter({(b, language): 2 for b in "abc" for language in languages})
    with simulated_endpoint(latency_s=0.3) as sim, contextlib.ExitStack() as stack:
        dev = stack.enter_context(dagster_dev(site.project, **site.env(sim, languages)))
        wait_until(lambda: sum(site.done().values()) >= 1, 180, "some dialogues are there")
        worker = wait_until(lambda: next(iter(run_workers(site.store)), None), 60, "a run makes dialogues")
        if killed == "the run":
            worker.send_signal(signal.SIGKILL)
        else:
            kill_everything(site.project)
            stack.close()
            assert site.done() != expected
            dev = stack.enter_context(dagster_dev(site.project, **site.env(sim, languages)))
        wait_until(lambda: site.done() == expected, 400, "every dialogue of 3 batches in 4 languages")
        wait_until(lambda: ended(dev, 12), 240, "every run ends")
        record = site.store.run()
        assert record is not None
        dialogues = list(site.store.dialogues(Scope(fingerprint=record.fingerprint)))
        assert len({d.plan.dialogue_id for d in dialogues}) == len(dialogues) == 24
        questions = [turn.user for d in dialogues for turn in d.turns]
        assert len(set(questions)) == 48
        # A dead run is told by the code server that started it; where that died too, by the sensor.
        reason = "marked as failed from outside" if killed == "the run" else "The process of this run died"
        assert reason in run_failures(dev)


def run_failures(dev: DagsterDev) -> str:
    messages = []
    for run in dev.runs():
        if run["status"] == "FAILURE":
            query = """query ($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
                ... on MessageEvent { message } } } } }"""
            events = dev.query(query, id=run["runId"])["logsForRun"]["events"]
            messages += [event.get("message", "") for event in events]
    return "\n".join(messages)
