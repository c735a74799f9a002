"""Pages of the list, by keyset: a page costs the same wherever it is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from dlgforge_core.database.connection import Connection
from dlgforge_core.dialogue import Role
from dlgforge_core.review.filters import Filters, Search

PAGE = 50
COUNTED = 10_000
"""Up to how many dialogues are counted; beyond, a list has more than that."""
_COUNTED_MS = 60
"""By when after its beginning a page's dialogues are counted: it comes without a number rather than late."""
_RUNS = 200
_FEW = 1_000
"""Up to how many dialogues the index of words answers a search; of more the next page is found soonest along
the order of the list."""

# What an order sorts by, and which way; `dialogue_id` breaks ties the same way.
_KEYS = {
    "newest": ("r.ended_at", "timestamptz", "DESC"),
    "lowest": ("coalesce(r.score, 11)", "real", "ASC"),
    "highest": ("coalesce(r.score, -1)", "real", "DESC"),
    "dearest": ("coalesce(r.dollars, -1)", "float8", "DESC"),
}

_PAGE = """
SELECT r.dialogue_id FROM review_dialogues r WHERE {where}{after}
ORDER BY {key} {way}, r.dialogue_id {way} LIMIT %(limit)s
"""
_AFTER = " AND ({key}, r.dialogue_id) {beyond} (%(key)s::{kind}, %(id)s)"
_KEY = "SELECT ({key})::text FROM review_dialogues r WHERE r.dialogue_id = %(id)s"
_COUNT = "SELECT count(*) FROM (SELECT FROM review_dialogues r WHERE {where} LIMIT %(limit)s) AS found"
_FOUND = "SELECT dialogue_id FROM review_texts WHERE words @@ ({query}) LIMIT %(limit)s"
_EXACT = "SELECT dialogue_id FROM review_texts WHERE dialogue_id = ANY(%(found)s) AND words @@ ({query})"
# A subquery for each row: joined, the planner would rather read all that has the words, and sort it.
_HAS_WORDS = "(SELECT w.words @@ ({query}) FROM review_texts w WHERE w.dialogue_id = r.dialogue_id)"
_ROWS = """
SELECT r.dialogue_id, r.language, r.status, r.drop_reason, r.n_turns, r.score, r.goal_met, r.ended_at,
       r.facets,
       CASE WHEN r.topic <> '' THEN d.plan #>> '{topic,topic}'
            ELSE coalesce(jsonb_path_query_first(
                t.details, '$.evidence[*] ? (@.given_to == $role).document',
                jsonb_build_object('role', %(asker)s::text)) #>> '{}', '') END,
       coalesce(left(t.user_text, 240), ''),
       coalesce((SELECT jsonb_agg(jsonb_build_array(m.reviewer, m.verdict, m.label) ORDER BY m.reviewer)
                 FROM review_marks m WHERE m.dialogue_id = r.dialogue_id), '[]'),
       r.dollars
FROM review_dialogues r JOIN dialogues d USING (dialogue_id)
LEFT JOIN turns t ON t.dialogue_id = r.dialogue_id AND t.turn_index = 0
WHERE r.dialogue_id = ANY(%(ids)s)
"""
_RUNS_SQL = """
SELECT g.run_id, g.dataset, g.created_at, sum(rp.n_dialogues),
       array_agg(DISTINCT p.language ORDER BY p.language)
FROM generation_runs g JOIN run_plans rp USING (run_id) JOIN plans p USING (plan_id)
GROUP BY 1 ORDER BY g.updated_at DESC LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class Listed:
    """A dialogue as the list shows it; `marks` are reviewer, verdict and label.

    `dollars` is None where the cost is not known.
    """

    dialogue_id: str
    language: str
    status: str
    drop_reason: str | None
    n_turns: int
    score: float | None
    goal_met: bool | None
    ended_at: datetime
    facets: Sequence[str]
    title: str
    question: str
    marks: Sequence[tuple[str, str, str]]
    dollars: float | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some dialogues of a list; `before` and `after` name the pages beside it by a dialogue, or are "".

    `total` is None where counting would take too long.
    """

    dialogues: Sequence[Listed]
    total: int | None
    before: str = ""
    after: str = ""

    @property
    def heading(self) -> str:
        """How many dialogues the list has, in words."""
        if self.total is None:
            return "Many dialogues"
        if self.total > COUNTED:
            return f"More than {COUNTED:,} dialogues"
        return f"{self.total:,} {'dialogue' if self.total == 1 else 'dialogues'}"


@dataclass(frozen=True, slots=True)
class Run:
    """A run that the list can be narrowed to."""

    run_id: str
    dataset: str
    created_at: datetime
    n_dialogues: int
    languages: Sequence[str]


def page_of(
    connection: Connection, filters: Filters, reviewer: str = "", *, after: str = "", before: str = ""
) -> Page:
    """Return a page of what passes the filters: the first, or that beside the dialogue named."""
    count_until = time.monotonic() + _COUNTED_MS / 1000
    where, values = _selection(connection, filters, reviewer)
    beside = after or before
    ids = _ids(connection, filters.order, where, values, beside, backwards=bool(before), limit=PAGE + 1)
    more = len(ids) > PAGE
    ids = ids[:PAGE]
    if before:
        ids.reverse()
    rows = connection.execute(_ROWS, {"ids": ids, "asker": Role.USER_SIMULATOR.value}).fetchall()
    listed = {row[0]: Listed(*row) for row in rows}
    return Page(
        dialogues=[listed[one] for one in ids if one in listed],
        total=_count(connection, where, values, count_until) if more or beside else len(ids),
        before=ids[0] if ids and (after or (before and more)) else "",
        after=ids[-1] if ids and (before or more) else "",
    )


def neighbours(
    connection: Connection, filters: Filters, dialogue_id: str, reviewer: str = ""
) -> tuple[str, str]:
    """Return the dialogues before and after one in a list, which it need not be in; "" at the ends."""
    where, values = _selection(connection, filters, reviewer)
    found = [
        _ids(connection, filters.order, where, values, dialogue_id, backwards=backwards, limit=1)
        for backwards in (True, False)
    ]
    return (found[0][0] if found[0] else "", found[1][0] if found[1] else "")


def every(
    connection: Connection, filters: Filters, reviewer: str = "", batch: int = 200
) -> Iterator[list[str]]:
    """Yield the ids of all that passes the filters, in order, a batch at a time."""
    where, values = _selection(connection, filters, reviewer)
    last = ""
    while ids := _ids(connection, filters.order, where, values, last, backwards=False, limit=batch):
        yield ids
        last = ids[-1]


def runs(connection: Connection) -> list[Run]:
    """Return the runs that there are, the latest first."""
    return [Run(*row) for row in connection.execute(_RUNS_SQL, {"limit": _RUNS}).fetchall()]


def _selection(connection: Connection, filters: Filters, reviewer: str) -> tuple[str, dict[str, Any]]:
    """Return the condition on what is listed, and its parameters."""
    where, values = filters.conditions(reviewer)
    search = filters.search()
    if search is None:
        return where, values
    values |= search.parameters
    found = _found(connection, search) if search.words else None
    if found is None:
        return f"{where} AND {_HAS_WORDS.format(query=search.exact)}", values
    return f"{where} AND r.dialogue_id = ANY(%(found)s)", {**values, "found": found}


def _found(connection: Connection, search: Search) -> list[str] | None:
    """Return the dialogues that a search finds; None for more than a few that have its words."""
    with connection.transaction():
        # A word that the statistics do not know is taken for one that many have.
        connection.execute("SET LOCAL enable_seqscan = off")
        statement = _FOUND.format(query=search.words).encode()
        rows = connection.execute(
            statement, {**search.parameters, "limit": _FEW + 1}, prepare=False
        ).fetchall()
    if len(rows) > _FEW:
        return None
    values = {**search.parameters, "found": [row[0] for row in rows]}
    exact = connection.execute(_EXACT.format(query=search.exact).encode(), values, prepare=False)
    return [row[0] for row in exact.fetchall()]


def _count(connection: Connection, where: str, values: Mapping[str, Any], until: float) -> int | None:
    """Return how many there are, up to one more than `COUNTED`; None where that takes longer than `until`."""
    left_ms = round(1000 * (until - time.monotonic()))
    if left_ms <= 0:
        return None
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL statement_timeout = {left_ms}".encode())
            statement = _COUNT.format(where=where).encode()
            row = connection.execute(statement, {**values, "limit": COUNTED + 1}, prepare=False).fetchone()
    except psycopg.errors.QueryCanceled:
        return None
    return int(row[0]) if row else 0


def _ids(
    connection: Connection,
    order: str,
    where: str,
    values: Mapping[str, Any],
    beside: str,
    *,
    backwards: bool,
    limit: int,
) -> list[str]:
    key, kind, way = _KEYS[order]
    if backwards:
        way = "ASC" if way == "DESC" else "DESC"
    after, more = "", {}
    if beside:
        # Read apart: of a key in a subquery the planner would not see how little of the index is left.
        row = connection.execute(_KEY.format(key=key).encode(), {"id": beside}).fetchone()
        if row is None:
            return []
        after = _AFTER.format(key=key, kind=kind, beyond="<" if way == "DESC" else ">")
        more = {"key": row[0], "id": beside}
    statement = _PAGE.format(where=where, after=after, key=key, way=way)
    found = connection.execute(
        statement.encode(), {**values, **more, "limit": limit}, prepare=False
    ).fetchall()
    return [row[0] for row in found]
