"""What dialogues were planned from documents: read back, so that a plan can be continued."""

from __future__ import annotations

import psycopg

from dlgforge_core.planning.document_plan import DOCUMENTS_BATCH, Lists
from dlgforge_core.sources import PlannedDocument

_CURRENT = "SELECT digest FROM seed_batches WHERE dataset = %s AND name = %s AND topics = '[]'"
_BEGUN = """
SELECT p.language, d.plan #>> '{document,name}', d.plan #>> '{document,digest}',
       coalesce((d.plan #>> '{document,nth}')::int, 0), (d.plan #>> '{document,chunk}')::int
FROM plans p JOIN dialogues d USING (plan_id)
WHERE p.fingerprint = %s AND p.batch = %s AND p.batch_digest = %s AND d.attempt = 0
ORDER BY p.language, d.ordinal
"""


def current_documents(connection: psycopg.Connection, dataset: str) -> str:
    """Return the digest of the plan that a dataset without topics is of; "" when there is none."""
    row = connection.execute(_CURRENT, (dataset, DOCUMENTS_BATCH)).fetchone()
    return str(row[0]) if row else ""


def begun_documents(connection: psycopg.Connection, fingerprint: str, digest: str) -> Lists:
    """Return the documents of each language's dialogues that were planned under a fingerprint and digest."""
    lists: dict[str, list[PlannedDocument]] = {}
    rows = connection.execute(_BEGUN, (fingerprint, DOCUMENTS_BATCH, digest))
    for language, name, document_digest, nth, chunk in rows:
        lists.setdefault(language, []).append(PlannedDocument(name, document_digest, nth, chunk))
    return lists
