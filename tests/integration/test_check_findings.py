"""What checks found is kept with the plan: only what is new is looked at, and the reports are the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import psutil
import pytest

from dlgforge_core.common import processes
from dlgforge_core.config import ChecksConfig, JudgeConfig
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.quality import findings, look, stored_findings
from dlgforge_core.quality.checks import run_checks
from dlgforge_core.quality.collectors import COLLECTORS, CheckReport, Collector
from dlgforge_core.quality.findings import findings_of
from dlgforge_core.quality.stored_findings import kept_findings, questions_of
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from tests.support.runs import planned, spec, work
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

LANGUAGES = ["en", "fr"]


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the dialogues that a check has looked at."""
    seen: list[str] = []
    add = COLLECTORS["schema"].add

    def counting(self: Collector, dialogue: Dialogue) -> None:
        seen.append(dialogue.plan.dialogue_id)
        add(self, dialogue)

    monkeypatch.setattr(COLLECTORS["schema"], "add", counting)
    return seen


def made(store: RunStore, sim: SimulatedEndpoint, total: int = 6, **run: Any) -> Scope:
    """Dialogues of two languages, and their scope."""
    prepared = planned(store, total, judge=JudgeConfig(), **{"target_languages": LANGUAGES, **run})
    work(spec(store, prepared, Endpoint("simulated", sim.base_url)))
    return Scope(fingerprint=prepared.fingerprint)


def reports(
    store: RunStore, scope: Scope, names: Collection[str] = tuple(COLLECTORS), **config: Any
) -> list[CheckReport]:
    settings = ChecksConfig.model_validate(config)
    outcomes = store.outcomes(scope)
    found = kept_findings(store.database, scope, LANGUAGES, settings, names)
    return run_checks(
        found,
        lambda: questions_of(store.database, scope),
        outcomes,
        settings,
        only={*names, "unique_questions"},
    )


def anew(store: RunStore, scope: Scope, **config: Any) -> list[CheckReport]:
    """Return the same with nothing kept."""
    settings = ChecksConfig.model_validate(config)
    found = findings_of(store.dialogues(scope), LANGUAGES, settings, COLLECTORS)
    return run_checks(
        [found],
        lambda: questions_of(store.database, scope),
        store.outcomes(scope),
        settings,
        only={*COLLECTORS, "unique_questions"},
    )


def test_what_was_looked_at_is_not_looked_at_again(
    store: RunStore, sim: SimulatedEndpoint, looked_at: list[str]
) -> None:
    scope = made(store, sim)
    first = reports(store, scope)
    assert len(looked_at) == len(set(looked_at)) == 6
    assert reports(store, scope) == first
    assert len(looked_at) == 6
    assert first == anew(store, scope)
    assert next(r for r in first if r.name == "unique_questions").figures["looked_at"] == 12


@pytest.mark.parametrize("at_once", [1_000, 3])
def test_of_a_plan_that_has_grown_only_what_is_new_is_looked_at(
    store: RunStore,
    sim: SimulatedEndpoint,
    looked_at: list[str],
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
) -> None:
    monkeypatch.setattr(stored_findings, "_AT_ONCE", at_once)
    scope = made(store, sim, 20)
    reports(store, scope)
    before = set(looked_at)
    assert len(looked_at) == len(before) == 20
    for total in (22, 24):
        del looked_at[:]
        assert made(store, sim, total) == scope
        after = reports(store, scope)
        assert sorted(looked_at) == sorted({d.plan.dialogue_id for d in store.dialogues(scope)} - before)
        assert len(looked_at) == 2
        before |= set(looked_at)
        assert after == anew(store, scope)


def test_checks_that_had_not_looked_look_at_all_of_a_plan_that_has_grown(
    store: RunStore, sim: SimulatedEndpoint, looked_at: list[str]
) -> None:
    scope = made(store, sim)
    reports(store, scope, ["language"])
    made(store, sim, 8)
    reports(store, scope, ["schema"])
    assert len(looked_at) == 8
    assert reports(store, scope) == anew(store, scope)


def test_of_a_smaller_run_less_is_counted(
    store: RunStore, sim: SimulatedEndpoint, looked_at: list[str]
) -> None:
    scope = made(store, sim, 8)
    whole = reports(store, scope)
    part = Scope(run_id=planned(store, 4, judge=JudgeConfig(), target_languages=LANGUAGES).run_id)
    assert reports(store, part) == anew(store, part)
    assert reports(store, scope) == whole


@pytest.mark.parametrize("change", ["deleted", "configuration", "code"])
def test_findings_are_kept_while_they_are_true(
    store: RunStore,
    sim: SimulatedEndpoint,
    looked_at: list[str],
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    scope = made(store, sim)
    reports(store, scope)
    config: dict[str, Any] = {}
    left = 6
    if change == "deleted":
        with store.connection() as connection:
            connection.execute("DELETE FROM dialogues WHERE dialogue_id = %s", (looked_at[-1],))
        left, expected = 5, 2  # of the plan that it was of
    elif change == "configuration":
        config, expected = {"leak_words": 3}, 6
    else:
        monkeypatch.setattr(findings, "_code", lambda: ["another"])
        expected = 6
    del looked_at[:]
    after = reports(store, scope, **config)
    assert len(looked_at) == expected
    assert next(r for r in after if r.name == "schema").figures["looked_at"] == left
    assert after == anew(store, scope, **config)


@pytest.mark.parametrize("granularity", ["turn", "conversation"])
def test_verdicts_that_a_finished_dialogue_is_given_later_count(
    store: RunStore, looked_at: list[str], granularity: Any
) -> None:
    judge = JudgeConfig(granularity=granularity)
    with simulated_endpoint(faults={"bad_json": 0.7}) as sim:
        prepared = planned(store, 12, judge=judge)
        work(spec(store, prepared, Endpoint("simulated", sim.base_url)))
        scope = Scope(fingerprint=prepared.fingerprint)
        assert store.progress(prepared.run_id).unjudged
        before = reports(store, scope)
        sim.configure(faults={})
        work(spec(store, planned(store, 12, judge=judge), Endpoint("simulated", sim.base_url)))
    assert not store.progress(prepared.run_id).unjudged
    after = reports(store, scope)
    assert after == anew(store, scope) != before
    del looked_at[:]
    assert reports(store, scope) == after
    assert looked_at == []


def test_a_threshold_may_change_without_another_look(
    store: RunStore, sim: SimulatedEndpoint, looked_at: list[str]
) -> None:
    scope = made(store, sim)
    # The simulated judge's scores follow from the request: any part of them may pass.
    lenient = reports(store, scope, min_pass_rate=0.0)
    assert next(r for r in lenient if r.name == "judge_pass_rate").passed
    del looked_at[:]
    strict = reports(store, scope, min_pass_rate=1.0, min_language_share=1.0)
    assert looked_at == []
    assert strict == anew(store, scope, min_pass_rate=1.0, min_language_share=1.0)


def test_checks_chosen_one_by_one_are_kept_together(
    store: RunStore, sim: SimulatedEndpoint, looked_at: list[str]
) -> None:
    scope = made(store, sim)
    reports(store, scope, ["language"])
    reports(store, scope, ["schema"])
    assert len(looked_at) == 6
    both = reports(store, scope, ["schema", "language"])
    assert [report.name for report in both] == ["schema", "unique_questions", "language"]
    assert len(looked_at) == 6


@pytest.fixture
def _processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes even for a few dialogues, three of a plan at a time."""
    monkeypatch.setattr(look, "_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(stored_findings, "_AT_ONCE", 3)
    monkeypatch.setattr(processes, "available_cpus", lambda: 2)


@pytest.mark.usefixtures("_processes")
def test_several_processes_find_what_one_finds(
    store: RunStore, sim: SimulatedEndpoint, monkeypatch: pytest.MonkeyPatch, looked_at: list[str]
) -> None:
    """Those with many processes are found as they are by one, examples in the same order, whatever dies."""
    scope = made(store, sim, 14)
    found = reports(store, scope, max_examples=4)
    assert not looked_at, "this process has left it to others"
    assert found == anew(store, scope, max_examples=4)
    del looked_at[:]

    def broken(*_: object) -> None:
        raise BrokenProcessPool("killed for memory")

    monkeypatch.setattr(Future, "result", broken)
    assert reports(store, scope, max_examples=5) == anew(store, scope, max_examples=5)
    assert len(looked_at) == 2 * 14, "this process does what the others could not"


def test_processes_that_look_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "looks.py"
    script.write_text(
        "import multiprocessing, os, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from dlgforge_core.common.processes import _end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    pool = ProcessPoolExecutor(1, context, _end_with_parent)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
        child.wait(20)
