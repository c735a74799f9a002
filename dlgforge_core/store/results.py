"""Results: the finished dialogues of a run, or of everything made under one fingerprint, and figures.

A scope names plans and how many dialogues of each are wanted. Several runs may share a plan, when partitions
are materialized one by one and then together; a scope holds every dialogue once all the same.

What was made under a fingerprint is told of today's seeds alone: of plans whose seed batch is kept, with
the content they were made from. So a seed file that was edited, renamed or deleted leaves the dataset. Its
dialogues stay in the database, and a run by its id shows all of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from dlgforge_core.dialogue import Dialogue
from dlgforge_core.run_outcomes import DroppedDialogue, Outcomes

_OF_RUN = "SELECT plan_id, n_dialogues FROM run_plans WHERE run_id = %(run_id)s"
_OF_FINGERPRINT = """
    SELECT rp.plan_id, max(rp.n_dialogues) AS n_dialogues
    FROM run_plans rp JOIN generation_runs r USING (run_id) JOIN plans p USING (plan_id)
    JOIN seed_batches s ON s.dataset = r.dataset AND s.name = p.batch
    WHERE r.fingerprint = %(fingerprint)s AND s.digest = coalesce(p.batch_digest, s.digest)
    GROUP BY rp.plan_id
"""

FORMER_PLANS = f"""
    SELECT plan_id FROM plans WHERE fingerprint = %(fingerprint)s
    EXCEPT SELECT plan_id FROM ({_OF_FINGERPRINT}) AS today
"""
"""Plans under a fingerprint whose seeds are not the dataset's any more."""

_FORMER_DIALOGUES = f"""
SELECT count(*) FROM ({FORMER_PLANS}) AS former JOIN dialogues USING (plan_id) WHERE status = 'done'
"""

# The models are part of the fingerprint: any run of it names the same.
_DIALOGUES = """
WITH wanted AS ({wanted}),
models AS (
    SELECT config -> 'models' AS models FROM generation_runs
    WHERE run_id = %(run_id)s OR fingerprint = %(fingerprint)s ORDER BY updated_at DESC LIMIT 1
)
SELECT d.plan, d.judgement, (SELECT models FROM models), (
    SELECT jsonb_agg(jsonb_build_array(t.turn_index, t.user_text, t.assistant_text, t.judgement,
                                       t.details) ORDER BY t.turn_index)
    FROM turns t WHERE t.dialogue_id = d.dialogue_id), d.ended_by, d.goal_verdict, d.usage
FROM wanted JOIN plans p USING (plan_id) JOIN dialogues d USING (plan_id)
WHERE d.status = 'done' AND d.ordinal >= %(first)s AND d.ordinal < least(wanted.n_dialogues, %(end)s)
ORDER BY {order} LIMIT %(limit)s
"""
_IN_ORDER = "p.batch, p.language, d.ordinal, d.dialogue_id"
_MIXED = "d.ordinal, p.language, p.batch, d.dialogue_id"

_OUTCOMES = """
WITH wanted AS ({wanted})
SELECT d.status, d.drop_reason, count(*), count(*) FILTER (WHERE d.attempt > 0)
FROM wanted JOIN dialogues d USING (plan_id)
WHERE d.ordinal < wanted.n_dialogues GROUP BY 1, 2
"""

# The latest of each reason; the first of every reason before the second of any.
_DROP_EXAMPLES = """
WITH wanted AS ({wanted}),
dropped AS (
    SELECT d.dialogue_id, d.drop_reason, coalesce(d.drop_detail, '') AS detail,
           row_number() OVER (PARTITION BY d.drop_reason ORDER BY d.ended_at DESC, d.dialogue_id) AS nth
    FROM wanted JOIN dialogues d USING (plan_id)
    WHERE d.status = 'dropped' AND d.ordinal < wanted.n_dialogues
)
SELECT dialogue_id, drop_reason, detail FROM dropped ORDER BY nth, drop_reason LIMIT %(examples)s
"""
_N_DROP_EXAMPLES = 20

_HAS_SEED_METADATA = """
WITH wanted AS ({wanted})
SELECT EXISTS (
    SELECT FROM wanted JOIN dialogues d USING (plan_id)
    WHERE d.status = 'done' AND d.ordinal < wanted.n_dialogues
    AND coalesce(d.plan #> '{{topic,metadata}}', '{{}}') <> '{{}}'
)
"""

_PARTS = """
WITH wanted AS ({wanted})
SELECT p.batch, p.language, count(*) FILTER (WHERE d.attempt = 0), count(*) FILTER (WHERE d.status = 'done'),
       count(*) FILTER (WHERE d.status = 'pending'), count(*) FILTER (WHERE d.status = 'dropped'),
       count(*) FILTER (WHERE d.status = 'unaccepted')
FROM wanted JOIN plans p USING (plan_id) JOIN dialogues d USING (plan_id)
WHERE d.ordinal < wanted.n_dialogues GROUP BY 1, 2 ORDER BY 1, 2
"""

_ATTRIBUTES = """
WITH wanted AS ({wanted})
SELECT a.key, a.value, count(*) FILTER (WHERE d.attempt = 0), count(*) FILTER (WHERE d.status = 'done')
FROM wanted JOIN dialogues d USING (plan_id), jsonb_each_text(d.plan -> 'attributes') AS a
WHERE d.ordinal < wanted.n_dialogues GROUP BY 1, 2 ORDER BY 1, 2
"""

# At most %(buckets)s of them, and few enough that each has some turns in it.
_THROUGHPUT = """
WITH wanted AS ({wanted}),
made AS (
    SELECT extract(epoch FROM t.created_at)::float8 AS at
    FROM wanted JOIN dialogues d USING (plan_id) JOIN turns t USING (dialogue_id)
    WHERE d.ordinal < wanted.n_dialogues
),
span AS (
    SELECT min(at) AS first, greatest(max(at) - min(at), 0.001) AS seconds,
           least(greatest(count(*) / 4, 1), %(buckets)s) AS buckets
    FROM made
)
SELECT least(floor((made.at - span.first) / span.seconds * span.buckets), span.buckets - 1)::int, count(*),
       span.seconds, span.buckets
FROM made, span GROUP BY 1, 3, 4 ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which dialogues: those of one run, or with `fingerprint` those of all its runs on today's seeds."""

    run_id: str | None = None
    fingerprint: str | None = None
    plan_id: str | None = None
    """Of those, the dialogues of one plan alone."""

    def __post_init__(self) -> None:
        if (self.run_id is None) == (self.fingerprint is None):
            raise ValueError("a scope is either one run or one fingerprint")

    @property
    def parameters(self) -> dict[str, Any]:
        """What the statements below are given."""
        return {"run_id": self.run_id, "fingerprint": self.fingerprint, "plan_id": self.plan_id}

    def sql(self, statement: str, **parts: str) -> str:
        """`statement` with the plans of this scope in it."""
        wanted = _OF_RUN if self.run_id is not None else _OF_FINGERPRINT
        if self.plan_id is not None:
            wanted = f"SELECT * FROM ({wanted}) AS plans_of_scope WHERE plan_id = %(plan_id)s"
        return statement.format(wanted=wanted, **parts)


@dataclass(frozen=True, slots=True)
class Part:
    """The dialogues of one seed batch in one language."""

    batch: str
    language: str
    planned: int
    done: int
    unfinished: int
    dropped: int = 0
    unaccepted: int = 0

    @property
    def made(self) -> int:
        """Dialogues that have ended, spares included."""
        return self.done + self.unaccepted + self.dropped


def parts(connection: psycopg.Connection, scope: Scope) -> list[Part]:
    """How each seed batch and language of a scope stands."""
    return [Part(*row) for row in connection.execute(scope.sql(_PARTS), scope.parameters).fetchall()]


def attribute_counts(connection: psycopg.Connection, scope: Scope) -> dict[str, dict[str, tuple[int, int]]]:
    """How many dialogues were planned and kept, by attribute and value."""
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    for name, value, planned, kept in connection.execute(scope.sql(_ATTRIBUTES), scope.parameters):
        counts.setdefault(name, {})[value] = (planned, kept)
    return counts


def stream_dialogues(
    connection: psycopg.Connection,
    scope: Scope,
    *,
    limit: int | None = None,
    mixed: bool = False,
    ordinals: range | None = None,
) -> Iterator[Dialogue]:
    """Yield the finished dialogues of a scope, each once; memory does not grow with their number.

    By batch, language and ordinal, or `mixed`: of as many languages as there are, for samples. Of each plan
    all of them, or those with these `ordinals`.
    """
    with connection.transaction(), connection.cursor(name="dialogues") as cursor:
        cursor.itersize = 500
        statement = scope.sql(_DIALOGUES, order=_MIXED if mixed else _IN_ORDER)
        first, end = (ordinals.start, ordinals.stop) if ordinals is not None else (0, None)
        cursor.execute(statement, {**scope.parameters, "limit": limit, "first": first, "end": end})
        yield from map(Dialogue.from_row, cursor)


def outcomes(connection: psycopg.Connection, scope: Scope) -> Outcomes:
    """How many dialogues were planned, finished, and dropped for which reason, with examples of these."""
    rows = connection.execute(scope.sql(_OUTCOMES), scope.parameters).fetchall()
    drop_reasons = {reason: n for status, reason, n, _ in rows if status == "dropped"}
    examples: list[DroppedDialogue] = []
    if drop_reasons:
        values = {**scope.parameters, "examples": _N_DROP_EXAMPLES}
        found = connection.execute(scope.sql(_DROP_EXAMPLES), values).fetchall()
        examples = [DroppedDialogue(*row) for row in found]
    return Outcomes(
        planned=sum(n - spares for _, _, n, spares in rows),
        done=sum(n for status, _, n, _ in rows if status == "done"),
        drop_reasons=drop_reasons,
        drop_examples=examples,
        spares=sum(spares for _, _, _, spares in rows),
        unaccepted=sum(n for status, _, n, _ in rows if status == "unaccepted"),
    )


def has_seed_metadata(connection: psycopg.Connection, scope: Scope) -> bool:
    """Whether the seed topic of any finished dialogue has metadata."""
    row = connection.execute(scope.sql(_HAS_SEED_METADATA), scope.parameters).fetchone()
    return bool(row and row[0])


def former_dialogues(connection: psycopg.Connection, fingerprint: str) -> int:
    """How many dialogues were finished under a fingerprint from seeds that are former ones now."""
    row = connection.execute(_FORMER_DIALOGUES, {"fingerprint": fingerprint}).fetchone()
    return int(row[0]) if row else 0


def throughput(connection: psycopg.Connection, scope: Scope, buckets: int = 40) -> list[tuple[float, float]]:
    """Return turns a second over time: (seconds since the first turn, turns/s), evenly spaced."""
    rows = connection.execute(scope.sql(_THROUGHPUT), {**scope.parameters, "buckets": buckets}).fetchall()
    if not rows:
        return []
    _, _, seconds, buckets = rows[0]
    width = seconds / buckets
    counts = {row[0]: row[1] for row in rows}
    return [((i + 0.5) * width, counts.get(i, 0) / width) for i in range(buckets)]
