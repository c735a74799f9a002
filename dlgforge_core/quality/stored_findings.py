"""Findings of checks, kept with the plans of a scope, so that only what is new is looked at."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from dataclasses import replace

import orjson

from dlgforge_core.config import ChecksConfig, MarkupConfig
from dlgforge_core.database.database import Database
from dlgforge_core.quality.checks import Asked
from dlgforge_core.quality.findings import Findings, findings_key, findings_of
from dlgforge_core.quality.leaks import PHRASES
from dlgforge_core.store.results import Scope, stream_dialogues

_PLANS = """
WITH wanted AS ({wanted}),
ended AS (
    SELECT plan_id, count(*) AS done, extract(epoch FROM max(d.ended_at))::text AS last,
           coalesce(sum(u.verdicts), 0) AS unjudged
    FROM wanted JOIN dialogues d USING (plan_id) LEFT JOIN unjudged u USING (dialogue_id)
    WHERE d.status = 'done' AND d.ordinal < wanted.n_dialogues GROUP BY plan_id
)
SELECT plan_id, done, last, unjudged, c.key, c.findings
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
    with database.connection() as connection:
        for plan_id, done, last, unjudged, kept_key, kept in connection.execute(
            scope.sql(_PLANS), scope.parameters
        ).fetchall():
            # A finished dialogue may be given verdicts that it lacks; others may come, or some be deleted.
            key = hashlib.blake2b(orjson.dumps([done, last, unjudged]), key=same, digest_size=16).digest()
            found: Findings = kept if kept_key == key else {}
            if missing := [name for name in names if name not in found]:
                dialogues = stream_dialogues(connection, replace(scope, plan_id=plan_id))
                found |= findings_of(dialogues, languages, config, missing, markup, phrases)
                connection.execute(_KEEP, (plan_id, key, orjson.dumps(found).decode()))
            yield found


def questions_of(database: Database, scope: Scope) -> Iterator[Asked]:
    """Every question of the finished dialogues of a scope, in no order, streamed. Raises StoreError."""
    with (
        database.connection() as connection,
        connection.transaction(),
        connection.cursor(name="questions") as cursor,
    ):
        cursor.itersize = 5000
        yield from cursor.execute(scope.sql(_QUESTIONS), scope.parameters)
