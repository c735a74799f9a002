"""A run state with dialogues made up for the review page, and the page on it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import uvicorn

from dlgforge_core.database.connection import Connection
from dlgforge_core.dialogue import Dialogue, Turn
from dlgforge_core.review.index import update_index
from dlgforge_core.review.server import serve
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.store.writes import storable
from dlgforge_core.usage import usage_json
from dlgforge_core.verdicts import Judgement
from tests.support.dialogues import make_dialogue

FINGERPRINT = "f" * 64
MODELS = {"qa_generator": "qwen2.5-7b", "kb_responder": "qwen2.5-32b", "qa_judge": "llama-3.3-70b"}


def put_run(
    connection: Connection,
    language: str = "en",
    *,
    dataset: str = "",
    fingerprint: str = FINGERPRINT,
    n_dialogues: int = 1000,
    batch: str = "weather",
) -> str:
    """Make a run of a plan in this language; returns the plan's id."""
    run_id, plan_id = f"run-{dataset}-{language}", f"plan-{dataset}-{language}"
    config = orjson.dumps({"models": MODELS}).decode()
    connection.execute(
        "INSERT INTO generation_runs (run_id, fingerprint, config, dataset) VALUES (%s, %s, %s::jsonb, %s)",
        (run_id, fingerprint, config, dataset),
    )
    connection.execute(
        "INSERT INTO plans (plan_id, fingerprint, batch, language, n_dialogues) VALUES (%s, %s, %s, %s, %s)",
        (plan_id, fingerprint, batch, language, n_dialogues),
    )
    connection.execute("INSERT INTO run_plans VALUES (%s, %s, %s)", (run_id, plan_id, n_dialogues))
    connection.execute(
        "INSERT INTO seed_batches (dataset, name, digest, topics) VALUES (%s, %s, '', '[]') "
        "ON CONFLICT DO NOTHING",
        (dataset, batch),
    )
    return plan_id


def put_dialogue(
    connection: Connection,
    plan_id: str,
    dialogue: Dialogue,
    *,
    status: str = "done",
    drop_reason: str | None = None,
    drop_detail: str | None = None,
    shortcomings: Mapping[str, str] | None = None,
) -> str:
    """Keep a dialogue as a worker does; returns its id."""
    plan = dialogue.plan
    goal = dialogue.goal.to_json() if dialogue.goal else None
    judgement = dialogue.judgement.to_json() if dialogue.judgement else None
    connection.execute(
        "INSERT INTO dialogues (dialogue_id, plan_id, ordinal, n_turns, plan, status, drop_reason, "
        "drop_detail, shortcomings, turns_done, judgement, ended_by, goal_verdict, usage, ended_at) "
        "VALUES (%s, %s, %s, %s, %s::jsonb, %s, %s, %s, %s::jsonb, %s, %s::jsonb, %s, %s::jsonb, %s::jsonb, "
        "now() - interval '1 minute' * %s)",
        (
            *(
                plan.dialogue_id,
                plan_id,
                plan.ordinal,
                plan.n_turns,
                _json(plan.to_json()),
                status,
                drop_reason,
            ),
            *(drop_detail, _json(shortcomings), len(dialogue.turns), _json(judgement)),
            *(dialogue.ended_by.value if dialogue.ended_by != "planned" else None, _json(goal)),
            *(_json(usage_json(dialogue.usage)), plan.ordinal),
        ),
    )
    for turn in dialogue.turns:
        connection.execute(
            "INSERT INTO turns (dialogue_id, turn_index, user_text, assistant_text, judgement, details, "
            "worker_id) VALUES (%s, %s, %s, %s, %s::jsonb, %s::jsonb, 0)",
            (
                *(plan.dialogue_id, turn.index, storable(turn.user), storable(turn.assistant)),
                *(_json(turn.judgement.to_json() if turn.judgement else None), _json(turn.details.to_json())),
            ),
        )
    return plan.dialogue_id


def _json(data: Any) -> str | None:
    return None if data is None else orjson.dumps(storable(data)).decode()


def put_dialogues(store: RunStore, dialogues: Iterable[Dialogue], **options: Any) -> list[str]:
    """Keep dialogues in the plan of a run of their language, and index them; returns their ids."""
    plans: dict[str, str] = {}
    ids = []
    with store.connection() as connection:
        for dialogue in dialogues:
            language = dialogue.plan.language
            if language not in plans:
                plans[language] = put_run(connection, language)
            ids.append(put_dialogue(connection, plans[language], dialogue, **options))
        update_index(connection)
    return ids


def conversation(ordinal: int, *texts: str, **options: Any) -> Dialogue:
    """Return a dialogue of these questions and answers, in turn."""
    turns = tuple(Turn(i, texts[2 * i], texts[2 * i + 1]) for i in range(len(texts) // 2))
    return make_dialogue(ordinal, turns, **options)


def scored(dialogue: Dialogue, *scores: int, reasons: Sequence[str] = ("helpful",)) -> Dialogue:
    """Return a dialogue with a verdict on each of its first turns."""
    judged = [
        replace(turn, judgement=Judgement(score, tuple(reasons), ""))
        for turn, score in zip(dialogue.turns, scores, strict=False)
    ]
    return replace(dialogue, turns=(*judged, *dialogue.turns[len(judged) :]))


@contextlib.contextmanager
def review_server(store: RunStore) -> Iterator[str]:
    """Serve the page from a thread; gives the address that lets in."""
    addresses: list[str] = []
    servers: list[uvicorn.Server] = []
    ready = threading.Event()

    def on_ready(address: str) -> None:
        addresses.append(address)
        ready.set()

    thread = threading.Thread(
        target=serve,
        args=(store.database, "127.0.0.1", 0),
        kwargs={"on_ready": on_ready, "server_made": servers.append, "env": {}},
        daemon=True,
    )
    thread.start()
    try:
        assert ready.wait(20), "the review page does not start"
        yield addresses[0]
    finally:
        for server in servers:
            server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
