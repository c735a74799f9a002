"""The SQL that frees what dead workers hold: dialogues to make, or to judge."""

from __future__ import annotations

from dlgforge_core.database import lock_keys
from dlgforge_core.store.claims import freed

LOCK_GRACE_S = 5.0
"""For how many seconds a lease outlives locks that the server has lost: the living take theirs again."""

# Told by a worker whose session broke though it lives: others' sessions may have broken with it.
NOTE_LOST_LOCKS = """
INSERT INTO lost_locks (server_started_at, noticed_at) VALUES (pg_postmaster_start_time(), now())
ON CONFLICT (only_row) DO UPDATE
SET server_started_at = excluded.server_started_at, noticed_at = excluded.noticed_at
"""


def _lost(table: str) -> str:
    """Name the workers that hold rows of `table` and have ended: `lost_dialogues`, say.

    From one holder to the next by the index: what each of them holds is not read.
    """
    return f"""
holders_of_{table} AS (
    (SELECT worker_id FROM {table} WHERE worker_id IS NOT NULL ORDER BY worker_id LIMIT 1)
    UNION ALL
    SELECT (SELECT t.worker_id FROM {table} t WHERE t.worker_id > h.worker_id ORDER BY t.worker_id LIMIT 1)
    FROM holders_of_{table} h WHERE h.worker_id IS NOT NULL
),
lost_{table} AS MATERIALIZED (
    SELECT w.worker_id FROM holders_of_{table} h JOIN workers w USING (worker_id)
    WHERE w.ended_at IS NOT NULL OR w.worker_id IN (SELECT worker_id FROM gone)
)"""


# A worker is gone when its lease has expired or its lock is free; but a server that was restarted, has
# recovered from a crash or has taken over from another one has forgotten the locks of the living. Then the
# table has no row of this server's start, gets one now, and free locks say nothing until the grace is over.
# The lock is only tried here, inside this statement's transaction; `ended_at` then keeps the worker from
# renewing a lease it has lost.
TAKE_OVER = f"""
WITH RECURSIVE known AS MATERIALIZED (
    SELECT noticed_at FROM lost_locks WHERE server_started_at = pg_postmaster_start_time()
),
noticed AS (
    INSERT INTO lost_locks (server_started_at, noticed_at)
    SELECT pg_postmaster_start_time(), now() WHERE NOT EXISTS (SELECT FROM known)
    ON CONFLICT (only_row) DO UPDATE
    SET server_started_at = excluded.server_started_at, noticed_at = excluded.noticed_at
),
suspects AS MATERIALIZED (
    SELECT worker_id, expires_at FROM workers WHERE ended_at IS NULL AND worker_id <> %(me)s
),
gone AS (
    UPDATE workers w SET ended_at = now() FROM suspects s
    WHERE w.worker_id = s.worker_id AND w.ended_at IS NULL
      AND (s.expires_at < now()
           OR (EXISTS (SELECT FROM known WHERE noticed_at < now() - interval '{LOCK_GRACE_S} seconds')
               AND pg_try_advisory_xact_lock({lock_keys.WORKERS}, s.worker_id)))
    RETURNING w.worker_id
),
{_lost("dialogues")},
let_go AS (
    UPDATE dialogues SET worker_id = NULL
    WHERE worker_id = ANY(ARRAY(SELECT worker_id FROM lost_dialogues)) RETURNING plan_id, ordinal
),
{freed("let_go")},
{_lost("judging_claims")},
freed_claims AS (
    UPDATE judging_claims SET worker_id = NULL
    WHERE worker_id = ANY(ARRAY(SELECT worker_id FROM lost_judging_claims)) RETURNING 1
)
SELECT (SELECT count(*) FROM let_go) + (SELECT count(*) FROM freed_claims)
"""
