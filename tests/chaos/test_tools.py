"""SIGKILL in dialogues that call tools: nothing recorded is done again, and states end as they should."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dlgforge_core.store.run_store import RunStore
from dlgforge_core.tool_events import ToolEvent
from tests.chaos.deaths import POINTS
from tests.chaos.harness import driver
from tests.chaos.ledger import VARIABLE
from tests.support.postgres import wait_for_sessions_to_end
from tests.support.runs import MODEL, planned
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint
from tests.support.waiting import wait_until

DIALOGUES, TURNS = 24, (1, 2)
NTH = 12
"""A worker dies when it comes to a point for the twelfth time."""
CALL = {"name": "advance", "arguments": {}}
NOTES = {1: "morning", 2: "evening"}
NOTED = "Call: note {"


def rounds(turn: int) -> list[list[dict[str, Any]]]:
    """Return what is called in a turn: a function in Python, and a simulated tool."""
    note = {"name": "note", "arguments": {"word": NOTES[turn]}}
    return [[CALL, note], [CALL]]


STEPS = len(TURNS) * 2
PLAN: dict[str, Any] = {
    "total": DIALOGUES,
    "concurrency": 8,
    "patience_s": 30.0,
    "lease_s": 600.0,  # so that only its lock tells that a worker is dead
    "tools": {
        "enabled": True,
        "functions": [
            {"python": "tests.chaos.ledger:advance"},
            {
                "name": "note",
                "description": "Notes a word.",
                "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
                "simulated": True,
            },
        ],
        "state": {
            "initial": [
                {"value": {"id": f"s{i}", "n": 0, "notes": [], "last": ""}} for i in range(DIALOGUES)
            ],
            # Half of what a note changes is no state.
            "json_schema": {"properties": {"notes": {"type": "array", "uniqueItems": True}}},
        },
    },
}
_EVENTS = """
SELECT d.plan->'tool_state'->>'id', r.events FROM dialogues d JOIN (
    SELECT dialogue_id, data->'events' FROM outcomes WHERE kind = 'tool_results'
    UNION ALL SELECT dialogue_id, details->'tools' FROM turns
) AS r (dialogue_id, events) USING (dialogue_id) WHERE r.events IS NOT NULL
"""
Done = tuple[str, int | str]
"""A call that was carried out: the dialogue by its state, and what was counted or noted."""


def noting(word: str) -> dict[str, Any]:
    """Return what the model answers that plays the note."""
    changes = [
        {"op": "add", "path": "/notes/-", "value": word},
        {"op": "replace", "path": "/last", "value": word},
    ]
    answer = {"error": "", "result": f"noted: {word}", "changes": changes}
    return {"contains": f'{NOTED}"word":"{word}"}}', "answer": answer}


def counted(ledger: Path) -> list[Done]:
    """Return every call of the function that was carried out, by its own ledger."""
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    return [(name, int(step)) for name, step in map(str.split, lines)]


def noted(sim: SimulatedEndpoint) -> list[Done]:
    """Return every call of the simulated tool that the endpoint was asked to play."""
    found: list[Done] = []
    for request in sim.stats()["requests"]:
        text = request["body"]["messages"][-1]["content"] or ""
        if NOTED in text:
            identity = text.partition('"id":"')[2].partition('"')[0]
            found.append((identity, text.partition(f'{NOTED}"word":"')[2].partition('"')[0]))
    return found


def recorded(store: RunStore) -> set[Done]:
    """Return the calls whose results are in Postgres; a patch is there whole or not at all."""
    with store.connection() as connection:
        rows = connection.execute(_EVENTS).fetchall()
    found: set[Done] = set()
    for identity, events in rows:
        for event in map(ToolEvent.from_json, events):
            values = {change["path"]: change["value"] for change in event.changes}
            if event.name == "note":
                assert values.keys() == {"/notes/-", "/last"}
                found.add((identity, values["/last"]))
            else:
                found.add((identity, values["/n"] - 1))
    return found


class Kills:
    """What was carried out and what was recorded, kill by kill."""

    def __init__(self, store: RunStore, ledger: Path, sim: SimulatedEndpoint) -> None:
        self._store, self._ledger, self._sim = store, ledger, sim
        self._kept: list[tuple[int, int, set[Done]]] = []
        self.lost = 0

    def counted(self, least: int) -> bool:
        """Whether the function has been called so often."""
        return len(counted(self._ledger)) >= least

    def take_stock(self) -> None:
        """Note what is recorded, once the sessions of a dead worker are gone."""
        wait_for_sessions_to_end(self._store)
        durable, (n_counted, n_noted) = recorded(self._store), self._kept[-1][:2] if self._kept else (0, 0)
        calls, notes = counted(self._ledger), noted(self._sim)
        assert durable <= {*calls, *notes}
        since = {*calls[n_counted:], *notes[n_noted:]}
        in_flight = since - durable
        assert len({name for name, _ in in_flight}) == len(in_flight), "one call of a dialogue at a time"
        self.lost += len(in_flight)
        self._kept.append((len(calls), len(notes), durable))

    def check(self) -> None:
        """Check that what was recorded was not done again, and of the rest nothing but what was in flight."""
        calls, notes = counted(self._ledger), noted(self._sim)
        for n_counted, n_noted, durable in self._kept:
            assert not durable & {*calls[n_counted:], *notes[n_noted:]}
        wanted: set[Done] = {(f"s{i}", step) for i in range(DIALOGUES) for step in range(STEPS)}
        wanted |= {(f"s{i}", word) for i in range(DIALOGUES) for word in NOTES.values()}
        assert {*calls, *notes} == wanted
        assert len(calls) + len(notes) - len(wanted) == self.lost


def test_kills_repeat_no_call_of_a_tool_that_is_recorded(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "ledger"
    monkeypatch.setenv(VARIABLE, str(ledger))
    run = planned(store, **PLAN)
    options: dict[str, Any] = {
        "tool_script": [{"turn": turn, "rounds": rounds(turn)} for turn in TURNS],
        "tool_results": [noting(word) for word in NOTES.values()],
        "record_requests": 5000,
    }
    with simulated_endpoint(models=[MODEL], latency_s=0.05, latency_sigma=0.5, **options) as sim:
        kills = Kills(store, ledger, sim)
        for point in POINTS:
            with driver(store, PLAN, (point, NTH), sim=sim) as victim:
                victim.die()
            kills.take_stock()
        with driver(store, PLAN, sim=sim) as victim:  # and one at any point at all
            so_far = len(counted(ledger))
            wait_until(functools.partial(kills.counted, so_far + NTH), 60, "calls are made")
            victim.kill()
        kills.take_stock()
        assert store.progress(run.run_id).pending, "the last kill came before the end"
        with driver(store, PLAN, sim=sim) as last:
            last.expect("ready")
            last.finish()
        kills.check()
    dialogues = list(store.dialogues(run.run_id))
    states = sorted((one.final_state or {} for one in dialogues), key=lambda state: int(state["id"][1:]))
    notes = list(NOTES.values())
    assert states == [
        {"id": f"s{i}", "n": STEPS, "notes": notes, "last": notes[-1]} for i in range(DIALOGUES)
    ]
    results = Counter(event.result for one in dialogues for turn in one.turns for event in turn.details.tools)
    numbers = [str(step + 1) for step in range(STEPS)]
    assert results == {text: DIALOGUES for text in [*numbers, *(f"noted: {word}" for word in notes)]}
