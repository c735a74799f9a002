"""Index of the list: brought up to date by the page, so that runs are not slowed by it.

A dialogue is indexed when it has ended, and again when its row or its verdicts have changed since. What has
changed is found by comparing, so that nothing is missed that was committed out of order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from dlgforge_core.database.connection import Connection
from dlgforge_core.dialogue import Dialogue, topic_of
from dlgforge_core.judging.store import LATEST_FIRST
from dlgforge_core.review.ended import Ended, ended_dialogues, latest_judges
from dlgforge_core.review.filters import ATTRIBUTE, REASON, TOOL
from dlgforge_core.review.search_text import folded, searchable
from dlgforge_core.usage import total_usage

BATCH = 200
_TOPIC_CHARS = 200
_STALE_AT_ONCE = 50_000
_CHOICES = 300

# xmin is the transaction that wrote the row last: another one has changed it. A new judging may be of other
# verdicts.
_STALE = f"""
WITH latest AS (
    SELECT DISTINCT ON (fingerprint) fingerprint, judging_id FROM judgings
    ORDER BY fingerprint, {LATEST_FIRST}
),
judged AS (SELECT dialogue_id, count(*) AS n, max(judged_at) AS at FROM judgements GROUP BY 1),
ended AS (
    SELECT d.dialogue_id, concat_ws(' ', d.xmin, l.judging_id, j.n, extract(epoch FROM j.at)) AS version
    FROM dialogues d JOIN plans p USING (plan_id) LEFT JOIN latest l USING (fingerprint)
    LEFT JOIN judged j USING (dialogue_id)
    WHERE d.status <> 'pending'
)
SELECT e.dialogue_id, e.version FROM ended e LEFT JOIN review_dialogues r USING (dialogue_id)
WHERE r.version IS DISTINCT FROM e.version LIMIT %(limit)s
"""

_PUT = """
WITH input AS MATERIALIZED (
    SELECT t.* FROM jsonb_to_recordset(%(rows)s::jsonb)
        AS t (dialogue_id text, version text, plan_id text, ordinal int, status text, drop_reason text,
              language text, topic text,
              n_turns int, score real, ended_by text, goal_met boolean, facets text[],
              ended_at timestamptz, dollars float8, words text)
    JOIN dialogues USING (dialogue_id) -- one may be gone meanwhile
),
listed AS (
    INSERT INTO review_dialogues (dialogue_id, version, plan_id, ordinal, status, drop_reason, language,
                                  topic, n_turns, score, ended_by, goal_met, facets, ended_at, dollars)
    SELECT dialogue_id, version, plan_id, ordinal, status, drop_reason, language, topic, n_turns, score,
           ended_by, goal_met, facets, ended_at, dollars
    FROM input
    ON CONFLICT (dialogue_id) DO UPDATE
    SET version = excluded.version, status = excluded.status, drop_reason = excluded.drop_reason,
        topic = excluded.topic, n_turns = excluded.n_turns, score = excluded.score,
        ended_by = excluded.ended_by, goal_met = excluded.goal_met, facets = excluded.facets,
        ended_at = excluded.ended_at, dollars = excluded.dollars
)
INSERT INTO review_texts (dialogue_id, words)
SELECT dialogue_id, to_tsvector('simple', words) FROM input
ON CONFLICT (dialogue_id) DO UPDATE SET words = excluded.words WHERE review_texts.words <> excluded.words
"""

_CHOICES_OF = """
SELECT value, count(*) FROM (SELECT {column} AS value FROM review_dialogues) AS every
WHERE value IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT %(limit)s
"""
_COLUMNS = {
    "language": "language",
    "status": "status",
    "dropped": "drop_reason",
    "ended": "ended_by",
    "goal": "goal_met",
    "facets": "unnest(facets)",
}


@dataclass(frozen=True, slots=True)
class Choices:
    """What the filters offer: values and how many dialogues have them, by the name of the filter."""

    values: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def of(self, name: str) -> Mapping[str, int]:
        """Return the values of a filter, the most frequent first."""
        return self.values.get(name, {})


def update_index(connection: Connection, on_progress: Callable[[int], None] = lambda done: None) -> int:
    """Index what has ended or changed; returns how many dialogues that were. Raises StoreError.

    Each batch is a transaction of its own: what is indexed stays so when this is interrupted.
    """
    done = 0
    while stale := connection.execute(_STALE, {"limit": _STALE_AT_ONCE}).fetchall():
        judges, versions = latest_judges(connection), dict(sorted(stale))
        ids = list(versions)
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            rows = [
                {**_row(one), "version": versions[one.dialogue_id]}
                for one in ended_dialogues(connection, batch, judges)
            ]
            connection.execute(_PUT, {"rows": orjson.dumps(rows).decode()})
            done += len(batch)
            on_progress(done)
        if len(stale) < _STALE_AT_ONCE:
            break
    return done


def read_choices(connection: Connection) -> Choices:
    """Return what the filters can offer."""
    values: dict[str, dict[str, int]] = {}
    for name, column in _COLUMNS.items():
        rows = connection.execute(_CHOICES_OF.format(column=column).encode(), {"limit": _CHOICES}).fetchall()
        values[name] = {_text(value): n for value, n in rows}
    for facet, n in values.pop("facets").items():
        kind, _, value = facet.partition(":")
        values.setdefault(kind, {})[value] = n
    return Choices(values)


def _text(value: str | bool) -> str:
    return value if isinstance(value, str) else ("met" if value else "missed")


def _row(one: Ended) -> dict[str, Any]:
    dialogue = one.dialogue
    topic, goal = topic_of(dialogue.plan, dialogue.turns), dialogue.goal_verdict
    used = total_usage(dialogue.usage.values())
    texts = (text for turn in dialogue.turns for _, text in turn.messages)
    return {
        "dialogue_id": one.dialogue_id,
        "plan_id": one.plan_id,
        "ordinal": one.ordinal,
        "status": one.status,
        "drop_reason": one.drop_reason,
        "language": one.language,
        "topic": folded(topic)[:_TOPIC_CHARS],
        "n_turns": len(dialogue.turns),
        "score": dialogue.mean_score,
        "ended_by": dialogue.ended_by.value if dialogue.turns else None,
        "goal_met": goal.met if goal is not None else None,
        "facets": list(dict.fromkeys(_facets(dialogue))),
        "ended_at": one.ended_at,
        "dollars": None if used.unpriced or not used.calls else used.dollars,
        "words": searchable("\n".join([topic, *texts])),
    }


def _facets(dialogue: Dialogue) -> Iterator[str]:
    for verdict in dialogue.verdicts:
        yield from (f"{REASON}:{reason}" for reason in verdict.reasons)
    yield from (f"{ATTRIBUTE}:{name} = {value}" for name, value in dialogue.plan.attributes.items())
    for turn in dialogue.turns:
        yield from (f"{TOOL}:{event.name}" for event in turn.details.tools)
