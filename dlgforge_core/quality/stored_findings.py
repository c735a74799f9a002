"""Findings of checks, kept by parts of the plans of a scope, so that only what is new is looked at."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from dlgforge_core.config import ChecksConfig, MarkupConfig
from dlgforge_core.database.database import Database
from dlgforge_core.quality.checks import Asked
from dlgforge_core.quality.collectors import COLLECTORS
from dlgforge_core.quality.findings import Findings, findings_key
from dlgforge_core.quality.leaks import PHRASES
from dlgforge_core.quality.look import Look, Part, look_at
from dlgforge_core.store.results import Scope

_AT_ONCE = 1_000
"""Ordinals of a plan that are looked at in one go, and whose findings are kept together."""

# Of each part what has ended, and what of it had been looked at.
_PARTS = """
WITH wanted AS ({wanted}),
ended AS (
    SELECT plan_id, wanted.n_dialogues, d.ordinal, d.ended_at, coalesce(u.verdicts, 0) AS unjudged,
           d.ordinal - d.ordinal %% %(at_once)s AS first
    FROM wanted JOIN dialogues d USING (plan_id) LEFT JOIN unjudged u USING (dialogue_id)
    WHERE d.status = 'done' AND d.ordinal < wanted.n_dialogues
),
parts AS (
    SELECT plan_id, first, least(max(n_dialogues), first + %(at_once)s) AS stop,
           count(*) AS done, extract(epoch FROM max(ended_at))::text AS last, sum(unjudged) AS unjudged,
           max(c.stop) AS kept_stop,
           count(*) FILTER (WHERE ordinal < c.stop) AS kept_done,
           extract(epoch FROM max(ended_at) FILTER (WHERE ordinal < c.stop))::text AS kept_last,
           sum(unjudged) FILTER (WHERE ordinal < c.stop) AS kept_unjudged
    FROM ended LEFT JOIN check_findings c USING (plan_id, first) GROUP BY plan_id, first
)
SELECT plan_id, first, parts.stop, done, last, unjudged, kept_stop, kept_done, kept_last, kept_unjudged,
       c.key, ARRAY(SELECT jsonb_object_keys(c.findings))
FROM parts JOIN plans p USING (plan_id) LEFT JOIN check_findings c USING (plan_id, first)
ORDER BY p.batch, p.language, plan_id, first
"""

_KEPT = "SELECT findings FROM check_findings WHERE plan_id = %s AND first = %s"

_KEEP = """
INSERT INTO check_findings (plan_id, first, stop, key, findings) VALUES (%s, %s, %s, %s, %s::jsonb)
ON CONFLICT (plan_id, first) DO UPDATE
SET stop = excluded.stop, key = excluded.key, findings = excluded.findings
"""

_QUESTIONS = """
WITH wanted AS ({wanted})
SELECT t.dialogue_id, t.turn_index + 1, t.user_text
FROM wanted JOIN dialogues d USING (plan_id) JOIN turns t USING (dialogue_id)
WHERE d.status = 'done' AND d.ordinal < wanted.n_dialogues
"""


def kept_findings(
    database: Database,
    scope: Scope,
    languages: Collection[str],
    config: ChecksConfig,
    names: Collection[str],
    markup: MarkupConfig | None = None,
    phrases: re.Pattern[str] = PHRASES,
) -> Iterator[Findings]:
    """Yield what the checks in `names` find in each part of a scope's plans, anew where it has changed.

    Of a part that has grown at its end only that end is looked at. Verdicts are those given while generating.
    Raises StoreError.
    """
    same = findings_key(languages, config, markup, phrases)
    look = Look(database, scope, sorted(languages), config, markup, phrases)
    with database.connection() as connection:
        parameters = {**scope.parameters, "at_once": _AT_ONCE}
        rows = connection.execute(scope.sql(_PARTS), parameters).fetchall()
        stretches = [_Stretch.of(row, same, names) for row in rows]
        to_look_at = [part for one in stretches for part in one.to_look_at]
        new = sum(one.new for one in stretches)
        with contextlib.closing(look_at(look, to_look_at, new)) as looked:
            for one in stretches:
                found: Findings = {}
                if one.kept_names:
                    where = one.plan_id, one.ordinals.start
                    (row,) = connection.execute(_KEPT, where).fetchall()
                    found = row[0]
                for _ in one.to_look_at:
                    found = _merged(config, found, next(looked))
                if one.to_look_at:
                    connection.execute(_KEEP, one.row(found))
                yield found


def _merged(config: ChecksConfig, found: Findings, more: Findings) -> Findings:
    """Return what was found in two stretches of dialogues."""
    both = dict(found)
    for name, data in more.items():
        collector = COLLECTORS[name](config)
        for one in (found.get(name), data):
            if one is not None:
                collector.merge(one)
        both[name] = collector.to_json()
    return both


def _key(same: bytes, ended: Sequence[object]) -> bytes:
    # A finished dialogue may be given verdicts that it lacks; others may come, or some be deleted.
    return hashlib.blake2b(orjson.dumps(list(ended)), key=same, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Ordinals of a plan, with what is known of them and what is still to be found."""

    plan_id: str
    ordinals: range
    key: bytes
    kept_names: Sequence[str]
    """The checks whose findings are kept, and true."""
    to_look_at: Sequence[Part]
    new: int
    """Dialogues that are to be looked at."""

    @classmethod
    def of(cls, row: Sequence[Any], same: bytes, names: Collection[str]) -> _Stretch:
        plan_id, first, stop, *ended = row[:6]
        kept_stop, *kept_ended, kept_key, kept_names = row[6:]
        if kept_key is None or kept_key != _key(same, kept_ended):
            kept_names = []
        whole, parts, new = range(first, stop), [], 0
        if kept_names and kept_ended[0] < ended[0]:
            parts.append(Part(plan_id, range(kept_stop, stop), kept_names))
            new = ended[0] - kept_ended[0]
        if missing := [name for name in names if name not in kept_names]:
            parts.append(Part(plan_id, whole, missing))
            new = ended[0]
        return cls(plan_id, whole, _key(same, ended), kept_names, parts, new)

    def row(self, found: Findings) -> tuple[object, ...]:
        """To be kept."""
        return self.plan_id, self.ordinals.start, self.ordinals.stop, self.key, orjson.dumps(found).decode()


def questions_of(database: Database, scope: Scope) -> Iterator[Asked]:
    """Every question of the finished dialogues of a scope, in no order, streamed. Raises StoreError."""
    with (
        database.connection() as connection,
        connection.transaction(),
        connection.cursor(name="questions") as cursor,
    ):
        cursor.itersize = 5000
        yield from cursor.execute(scope.sql(_QUESTIONS), scope.parameters)
