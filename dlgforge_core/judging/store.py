"""The run state as offline judging sees it: what is to be judged, verdicts, and who judged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import orjson
import psycopg

from dlgforge_core.config import JudgeConfig
from dlgforge_core.database import lock_keys
from dlgforge_core.database.database import Database
from dlgforge_core.database.reconnecting import ReconnectingConnection
from dlgforge_core.dialogue import DialoguePlan, Turn
from dlgforge_core.errors import StoreError
from dlgforge_core.judging.judges import Judge
from dlgforge_core.judging.sessions import PlanRow
from dlgforge_core.knowledge.texts import chunk_texts
from dlgforge_core.prompting.verdict_evidence import chunks_shown
from dlgforge_core.store.results import Scope
from dlgforge_core.store.writes import storable
from dlgforge_core.verdicts import Judgement

_PAGE = 100

_FINGERPRINT = """
SELECT fingerprint FROM generation_runs WHERE run_id = %(run_id)s OR fingerprint = %(fingerprint)s LIMIT 1
"""

_PLANS = "WITH wanted AS ({wanted}) SELECT plan_id, n_dialogues FROM wanted ORDER BY plan_id"

# Of each dialogue its turns, and the verdicts of these judges on it.
_DIALOGUES = """
SELECT d.ordinal, d.plan, (
    SELECT jsonb_agg(jsonb_build_array(t.turn_index, t.user_text, t.assistant_text, NULL, t.details)
                     ORDER BY t.turn_index)
    FROM turns t WHERE t.dialogue_id = d.dialogue_id
), (
    SELECT jsonb_agg(jsonb_build_array(j.judge_key, j.turn_index, j.score, j.reasons,
                                       encode(j.text_digest, 'hex'), j.ratings,
                                       coalesce(j.judged_at >= %(since)s::timestamptz, false)))
    FROM judgements j WHERE j.dialogue_id = d.dialogue_id AND j.judge_key = ANY(%(keys)s)
)
FROM dialogues d
"""

_PAGE_OF_PLAN = (
    _DIALOGUES
    + """
WHERE d.plan_id = %(plan)s AND d.ordinal > %(after)s AND d.ordinal < %(n)s AND d.status = 'done'
ORDER BY d.ordinal LIMIT %(limit)s
"""
)

_CLAIMED = (
    _DIALOGUES + "WHERE d.dialogue_id = ANY(%(ids)s) AND d.status = 'done' ORDER BY d.plan_id, d.ordinal"
)

# Without the turns that seeds have: nobody is to judge those.
_WANTED = """
WITH wanted AS ({wanted})
SELECT count(*), coalesce(sum(d.turns_done - CASE WHEN d.plan->>'from_seed' = 'continue' THEN
    jsonb_array_length(jsonb_path_query_array(d.plan, '$.topic.messages[*] ? (@.role == "assistant")'))
    ELSE 0 END), 0)
FROM wanted JOIN dialogues d USING (plan_id)
WHERE d.status = 'done' AND d.ordinal < wanted.n_dialogues
"""

_PRESENT = """
WITH wanted AS ({wanted})
SELECT j.judge_key, count(*)
FROM wanted JOIN dialogues d USING (plan_id) JOIN judgements j USING (dialogue_id)
WHERE d.status = 'done' AND d.ordinal < wanted.n_dialogues AND j.judge_key = ANY(%(keys)s)
GROUP BY j.judge_key
"""

LATEST_FIRST = "finished_at DESC NULLS LAST, started_at DESC"
"""The order of judgings, of which the first counts."""

_LATEST = f"""
SELECT judges FROM judgings WHERE dataset = %(dataset)s AND fingerprint = %(fingerprint)s
ORDER BY {LATEST_FIRST} LIMIT 1
"""


def judgement_of(
    score: int, reasons: Sequence[str], comment: str, ratings: Mapping[str, Any] | None
) -> Judgement:
    """Return a verdict from its columns."""
    return Judgement.from_json({"score": score, "reasons": reasons, "comment": comment, **(ratings or {})})


@dataclass(frozen=True, slots=True)
class Kept:
    """A verdict that is there, and the digest of what it is about."""

    judgement: Judgement
    digest: bytes
    is_new: bool
    """Whether it was given in the session that asks."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished dialogue and the verdicts on it, by judge key and turn index."""

    ordinal: int
    plan: DialoguePlan
    turns: tuple[Turn, ...]
    texts: Mapping[str, str]
    """Of the chunks that its judge is shown, by id."""
    verdicts: dict[tuple[str, int], Kept]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict to be kept."""

    dialogue_id: str
    turn_index: int
    judge_key: str
    judgement: Judgement
    digest: bytes

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the store."""
        return {
            "dialogue_id": self.dialogue_id,
            "turn_index": self.turn_index,
            "judge_key": self.judge_key,
            **storable(self.judgement.to_json()),
            "ratings": storable(self.judgement.more) if self.judgement.more else None,
            "digest": self.digest.hex(),
        }


def fingerprint_of(connection: psycopg.Connection, scope: Scope) -> str:
    """Return the fingerprint of a scope. Raises StoreError when nothing was ever made in it."""
    row = connection.execute(_FINGERPRINT, scope.parameters).fetchone()
    if row is None:
        raise StoreError("there is no such run here: nothing was ever made under this id or fingerprint")
    return str(row[0])


def plans_of(connection: psycopg.Connection, scope: Scope) -> list[PlanRow]:
    """Return the plans of a scope, in the order in which they are judged."""
    return [(row[0], row[1]) for row in connection.execute(scope.sql(_PLANS), scope.parameters).fetchall()]


def finished_dialogues(
    connection: ReconnectingConnection,
    dataset: str,
    plans: Sequence[PlanRow],
    judge: JudgeConfig,
    keys: Sequence[str],
) -> Iterator[tuple[int, Finished]]:
    """Yield the finished dialogues of plans of `dataset`, with the verdicts of these judges.

    Each with the number of its plan. In pages: neither memory nor a transaction grows with their number, and
    a server that was restarted meanwhile is asked again.
    """
    for number, (plan_id, n_dialogues) in enumerate(plans):
        after = -1
        while True:
            values = {"plan": plan_id, "n": n_dialogues, "after": after, "keys": list(keys), "limit": _PAGE}
            rows = connection.run(partial(_rows, _PAGE_OF_PLAN, {**values, "since": None}))
            for dialogue in _finished(connection, dataset, judge, rows):
                yield number, dialogue
            if len(rows) < _PAGE:
                break
            after = rows[-1][0]


def claimed_dialogues(
    connection: ReconnectingConnection,
    dataset: str,
    judge: JudgeConfig,
    keys: Sequence[str],
    ids: Sequence[str],
    since: datetime,
) -> list[Finished]:
    """Return these dialogues with the verdicts of these judges; those from `since` on are new."""
    values = {"ids": list(ids), "keys": list(keys), "since": since}
    rows = connection.run(partial(_rows, _CLAIMED, values))
    return list(_finished(connection, dataset, judge, rows))


def _rows(sql: str, values: Mapping[str, Any], connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    return connection.execute(sql.encode(), values).fetchall()


def _finished(
    connection: ReconnectingConnection, dataset: str, judge: JudgeConfig, rows: Sequence[Sequence[Any]]
) -> Iterator[Finished]:
    turns = [tuple(Turn.from_row(turn) for turn in row[2] or ()) for row in rows]
    wanted = [chunks_shown(judge, [turn.details for turn in of_dialogue]) for of_dialogue in turns]
    shown = {chunk for chunks in wanted for chunk in chunks}
    texts = connection.run(lambda c: chunk_texts(c, dataset, shown))
    for (ordinal, plan, _, verdicts), of_dialogue, chunks in zip(rows, turns, wanted, strict=True):
        yield Finished(
            ordinal=ordinal,
            plan=DialoguePlan.from_json(plan),
            turns=of_dialogue,
            texts={chunk: texts[chunk] for chunk in chunks if chunk in texts},
            verdicts={
                (key, index): Kept(judgement_of(score, reasons, "", ratings), bytes.fromhex(digest), is_new)
                for key, index, score, reasons, digest, ratings, is_new in verdicts or ()
            },
        )


def count_verdicts(
    connection: psycopg.Connection, scope: Scope, judges: Sequence[Judge], granularity: str
) -> tuple[int, dict[str, int]]:
    """How many verdicts there should be, and by judge key how many there are, some perhaps on other texts."""
    row = connection.execute(scope.sql(_WANTED), scope.parameters).fetchone()
    assert row is not None
    dialogues, turns = int(row[0]), int(row[1])
    keys = [judge.key for judge in judges]
    present = connection.execute(scope.sql(_PRESENT), {**scope.parameters, "keys": keys}).fetchall()
    return (turns if granularity == "turn" else dialogues) * len(judges), {key: n for key, n in present}


# Judgings


def begin_judging(
    connection: psycopg.Connection, dataset: str, fingerprint: str, judges: Sequence[Judge]
) -> str:
    """Write down who judges; returns the id to `finish_judging` with."""
    named = [[judge.key, judge.name] for judge in judges]
    judging_id = hashlib.blake2b(orjson.dumps(named), digest_size=8).hexdigest()
    with connection.transaction():
        for judge in judges:
            connection.execute(
                "INSERT INTO judges (judge_key, model, settings) VALUES (%s, %s, %s::jsonb) "
                "ON CONFLICT DO NOTHING",
                (judge.key, judge.model, orjson.dumps(judge.settings).decode()),
            )
        connection.execute(
            "INSERT INTO judgings (dataset, fingerprint, judging_id, judges) VALUES (%s, %s, %s, %s::jsonb) "
            "ON CONFLICT (dataset, fingerprint, judging_id) DO UPDATE SET started_at = now()",
            (dataset, fingerprint, judging_id, orjson.dumps(named).decode()),
        )
    return judging_id


def finish_judging(connection: psycopg.Connection, dataset: str, fingerprint: str, judging_id: str) -> None:
    """Note that a session came to its end by itself."""
    connection.execute(
        "UPDATE judgings SET finished_at = now() WHERE (dataset, fingerprint, judging_id) = (%s, %s, %s)",
        (dataset, fingerprint, judging_id),
    )


def latest_judging(connection: psycopg.Connection, dataset: str, fingerprint: str) -> dict[str, str]:
    """Names of the judges by key, in their order, of the judging whose verdicts count.

    That is the one that came to its end last; while none has, the one begun last. Empty when what was made
    under this fingerprint was never judged offline.
    """
    row = connection.execute(_LATEST, {"dataset": dataset, "fingerprint": fingerprint}).fetchone()
    return {key: name for key, name in row[0]} if row else {}


@contextmanager
def judging_locks(
    database: Database,
    fingerprint: str,
    judges: Sequence[Judge],
    on_wait: Callable[[], None],
) -> Iterator[None]:
    """Sole right to judge what was made under one fingerprint with these judges; waits for it.

    Session advisory locks: they end with a killed holder's connection. Who holds them shares the work out
    among its workers; another process has workers of its own only once it is its turn.
    """
    names = [f"{fingerprint}:{judge.key}".encode() for judge in judges]
    digests = (hashlib.blake2b(name, digest_size=4).digest() for name in names)
    # In order, so that two who share some judges cannot wait for each other.
    numbers = sorted({int.from_bytes(digest, "big", signed=True) for digest in digests})
    waited = False

    def wait() -> None:
        nonlocal waited
        if not waited:
            on_wait()
        waited = True

    with ExitStack() as held:
        for number in numbers:
            held.enter_context(database.lock([(lock_keys.JUDGING, number)], wait))
        yield
