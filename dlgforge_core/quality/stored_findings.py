"""Findings of checks, kept with the plans of a scope, so that only what is new is looked at."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import orjson

from dlgforge_core.config import ChecksConfig, MarkupConfig
from dlgforge_core.database.database import Database
from dlgforge_core.quality.checks import Asked
from dlgforge_core.quality.findings import Findings, findings_key
from dlgforge_core.quality.leaks import PHRASES
from dlgforge_core.quality.look import Look, PlanToLookAt, look_at
from dlgforge_core.store.results import Scope

_PLANS = """
WITH wanted AS ({wanted}),
ended AS (
    SELECT plan_id, max(wanted.n_dialogues) AS ordinals, count(*) AS done,
           extract(epoch FROM max(d.ended_at))::text AS last, coalesce(sum(u.verdicts), 0) AS unjudged
    FROM wanted JOIN dialogues d USING (plan_id) LEFT JOIN unjudged u USING (dialogue_id)
    WHERE d.status = 'done' AND d.ordinal < wanted.n_dialogues GROUP BY plan_id
)
SELECT plan_id, ordinals, done, last, unjudged, c.key, c.findings
FROM ended JOIN plans p USING (plan_id) LEFT JOIN check_findings c USING (plan_id)
ORDER BY p.batch, p.language, plan_id
"""

_KEEP = """
INSERT INTO check_findings (plan_id, key, findings) VALUES (%s, %s, %s::jsonb)
ON CONFLICT (plan_id) DO UPDATE SET key = excluded.key, findings = excluded.findings
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
    """Yield what the checks in `names` find in each plan of a scope, anew where it has changed.

    Verdicts are those given while generating. Raises StoreError.
    """
    same = findings_key(languages, config, markup, phrases)
    look = Look(database, scope, sorted(languages), config, markup, phrases)
    with database.connection() as connection:
        plans = [
            _Plan(row[0], row[1], row[2], row[5], row[6], _key(same, row[2:5]), names)
            for row in connection.execute(scope.sql(_PLANS), scope.parameters).fetchall()
        ]
        new = [plan for plan in plans if plan.missing]
        to_look_at = [PlanToLookAt(plan.plan_id, plan.ordinals, plan.missing) for plan in new]
        with contextlib.closing(look_at(look, to_look_at, sum(plan.done for plan in new))) as looked:
            for plan in plans:
                found = plan.kept
                if plan.missing:
                    found |= next(looked)
                    connection.execute(_KEEP, (plan.plan_id, plan.key, orjson.dumps(found).decode()))
                yield found


def _key(same: bytes, ended: Sequence[object]) -> bytes:
    # A finished dialogue may be given verdicts that it lacks; others may come, or some be deleted.
    return hashlib.blake2b(orjson.dumps(list(ended)), key=same, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class _Plan:
    """A plan, with what was found in it before."""

    plan_id: str
    ordinals: int
    done: int
    kept_key: bytes | None
    kept_findings: Findings | None
    key: bytes
    names: Collection[str]

    @property
    def kept(self) -> Findings:
        """What was found, where nothing has changed since."""
        return dict(self.kept_findings or {}) if self.kept_key == self.key else {}

    @property
    def missing(self) -> list[str]:
        """The checks that have not looked at it as it is."""
        return [name for name in self.names if name not in self.kept]


def questions_of(database: Database, scope: Scope) -> Iterator[Asked]:
    """Every question of the finished dialogues of a scope, in no order, streamed. Raises StoreError."""
    with (
        database.connection() as connection,
        connection.transaction(),
        connection.cursor(name="questions") as cursor,
    ):
        cursor.itersize = 5000
        yield from cursor.execute(scope.sql(_QUESTIONS), scope.parameters)
