"""The SQL of a worker. Groups of writes come as arrays, one statement for each kind."""

from __future__ import annotations

from dlgforge_core.database import lock_keys
from dlgforge_core.store.attempts import SPARES
from dlgforge_core.store.claims import AMONG, freed
from dlgforge_core.store.finishing import FOLDED, HELD

# The advisory lock of a worker is held while it lives, and free when its connection is gone. It is taken
# before the row can be seen, so that a worker without its lock is known to be dead.
REGISTER_WORKER = f"""
WITH me AS (
    INSERT INTO workers (run_id, session_id, host, pid, expires_at)
    SELECT %(run)s, %(session)s, %(host)s, %(pid)s, now() + %(lease)s * interval '1 second'
    WHERE %(session)s::text IS NULL
       OR EXISTS (SELECT 1 FROM judging_sessions WHERE session_id = %(session)s)
    RETURNING worker_id
)
SELECT worker_id, pg_try_advisory_lock({lock_keys.WORKERS}, worker_id) FROM me
"""

TRY_WORKER_LOCK = f"SELECT pg_try_advisory_lock({lock_keys.WORKERS}, %(me)s)"

HEARTBEAT = """
UPDATE workers SET expires_at = now() + %(lease)s * interval '1 second', stats = %(stats)s::jsonb
WHERE worker_id = %(me)s AND ended_at IS NULL
"""

END_WORKER = f"""
WITH let_go AS (UPDATE dialogues SET worker_id = NULL WHERE worker_id = %(me)s RETURNING plan_id, ordinal),
     {freed("let_go")},
     unjudged AS (UPDATE judging_claims SET worker_id = NULL WHERE worker_id = %(me)s),
     ended AS (UPDATE workers SET ended_at = now() WHERE worker_id = %(me)s AND ended_at IS NULL)
SELECT pg_advisory_unlock({lock_keys.WORKERS}, %(me)s)
"""

COUNTS = f"""
SELECT count(*) FILTER (WHERE (d.status = 'pending' OR u.again AND d.status = 'done') AND {AMONG}),
       count(*) FILTER (WHERE d.status IN ('done', 'unaccepted'))
FROM run_plans rp JOIN dialogues d USING (plan_id) LEFT JOIN unjudged u USING (dialogue_id)
WHERE rp.run_id = %(run)s AND d.ordinal < rp.n_dialogues
"""

HAS_VERDICT = """
SELECT EXISTS (
    SELECT 1 FROM run_plans p JOIN dialogues j USING (plan_id) LEFT JOIN turns t USING (dialogue_id)
    WHERE p.run_id = %(run)s AND (j.judgement IS NOT NULL OR t.judgement IS NOT NULL)
)
"""

USED = """
SELECT coalesce(sum((stats ->> 'tokens')::bigint), 0), coalesce(sum((stats ->> 'dollars')::float8), 0)
FROM workers
WHERE (run_id = %(run)s OR session_id = %(session)s) AND worker_id <> %(me)s
"""

# Groups of writes. `rows` is a JSON array of operations, each with its place `op` in the group and the
# worker who asked for it. A statement gives back the operations whose worker still holds the lease; FOR
# SHARE keeps the lease from changing hands until the group is durable.

# A question that is already there under the same dialogue and turn is this write, repeated. Keys go in in
# order, so that two workers' groups rarely wait for each other in a circle.
_RESERVE = """
WITH {first}owned AS MATERIALIZED (
    SELECT i.op, i.dialogue_id, i.turn_index, i.position, i.question, i.question_key AS hex,
           decode(i.question_key, 'hex') AS question_key{taken}
    FROM jsonb_to_recordset(%(rows)s::jsonb)
        AS i (op int, worker_id int, dialogue_id text, turn_index int, position int, question text,
              question_key text{types})
    JOIN dialogues d USING (dialogue_id)
    WHERE {held}
    FOR SHARE OF d
),
fresh AS (
    INSERT INTO questions (fingerprint, question_key, dialogue_id, turn_index{names})
    SELECT %(fingerprint)s, question_key, dialogue_id, turn_index{names} FROM owned ORDER BY question_key
    ON CONFLICT DO NOTHING
    RETURNING question_key, dialogue_id
),
-- One value to look in: joined by nested loops, the only ones here, a group would cost its square.
kept AS MATERIALIZED (
    SELECT jsonb_object_agg(encode(question_key, 'hex') || dialogue_id, NULL) AS fresh FROM fresh
),
asked AS MATERIALIZED (
    SELECT o.*, coalesce(k.fresh ? (o.hex || o.dialogue_id), false) OR EXISTS (
        SELECT FROM questions q
        WHERE q.fingerprint = %(fingerprint)s AND q.question_key = o.question_key
          AND q.dialogue_id = o.dialogue_id AND q.turn_index = o.turn_index
    ) AS mine
    FROM owned o, kept k
),
recorded AS (
    INSERT INTO outcomes (dialogue_id, turn_index, position, kind, data)
    SELECT dialogue_id, turn_index, position, CASE WHEN mine THEN 'asked' ELSE 'question_refused' END,
           CASE WHEN mine THEN jsonb_build_object('question', question)
                ELSE jsonb_build_object('question', question, 'why', 'asked_before', 'similarity', 1.0) END
    FROM asked
    ON CONFLICT (dialogue_id, turn_index, position) DO UPDATE SET kind = excluded.kind, data = excluded.data
)
SELECT op, mine FROM asked{last}
"""
RESERVE_QUESTIONS = _RESERVE.format(first="", taken="", types="", names="", held=HELD, last="")

# Where near-copies are rejected as well: what later questions are compared with is kept too.
_UNLIKE = {"taken": ", i.normal_form", "types": ", normal_form text", "names": ", normal_form"}
RESERVE_UNLIKE_QUESTIONS = _RESERVE.format(first="", held=HELD, last="", **_UNLIKE)

# The same with the row of the log, and without waiting for the lock. Nothing is kept where another one has
# the lock or has appended a row since, or where the last row that was read is not there: the operation KEPT
# is false then. The row's number decides that, not what the statement sees, which is older than its lock. It
# waits for the rows of others no longer than a moment: they may wait for the lock.
KEPT = -1
_MOMENT_MS = 50
RESERVE_UNLIKE_QUESTIONS_AT_ONCE = _RESERVE.format(
    first=f"""locked AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock({lock_keys.QUESTIONS}, hashtext(%(fingerprint)s)) AS alone,
           set_config('lock_timeout', '{_MOMENT_MS}', true)
),
appended AS (
    INSERT INTO question_log
    SELECT %(fingerprint)s, %(seq)s, %(tag)s, %(entries)s FROM locked
    WHERE alone AND (%(seq)s = 1 OR EXISTS (
        SELECT FROM question_log
        WHERE fingerprint = %(fingerprint)s AND seq = %(seq)s - 1 AND tag = %(last_tag)s
    ))
    ON CONFLICT DO NOTHING
    RETURNING seq
),
""",
    held=f"EXISTS (SELECT FROM appended) AND {HELD}",
    last=f" UNION ALL SELECT {KEPT}, EXISTS (SELECT FROM appended)",
    **_UNLIKE,
)

RECORD_OUTCOMES = f"""
WITH owned AS MATERIALIZED (
    SELECT i.op, i.dialogue_id, i.turn_index, i.position, i.kind, i.data, i.usage
    FROM jsonb_to_recordset(%(rows)s::jsonb)
        AS i (op int, worker_id int, dialogue_id text, turn_index int, position int, kind text, data jsonb,
              usage jsonb)
    JOIN dialogues d USING (dialogue_id)
    WHERE {HELD}
    FOR SHARE OF d
),
recorded AS (
    INSERT INTO outcomes (dialogue_id, turn_index, position, kind, data, usage)
    SELECT dialogue_id, turn_index, position, kind, data, usage FROM owned
    ON CONFLICT (dialogue_id, turn_index, position)
    DO UPDATE SET kind = excluded.kind, data = excluded.data, usage = excluded.usage
)
SELECT op, NULL FROM owned
"""

# A turn that is already there, written by the same worker, is this write, repeated.
COMMIT_TURNS = (
    f"""
WITH input AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(rows)s::jsonb)
        AS t (op int, worker_id int, dialogue_id text, turn_index int, user_text text, assistant_text text,
              judgement jsonb, details jsonb, final boolean, conversation jsonb, unjudged int, reason text,
              detail text, shortcomings jsonb, spare text, goal jsonb, usage jsonb)
),
ended AS (
    UPDATE dialogues d SET
        turns_done = i.turn_index + 1,
        status = CASE WHEN i.shortcomings IS NOT NULL THEN 'unaccepted' WHEN i.final THEN 'done'
                      ELSE 'pending' END,
        shortcomings = i.shortcomings,
        worker_id = CASE WHEN i.final THEN NULL ELSE d.worker_id END,
        judgement = i.conversation,
        goal_verdict = i.goal,
        usage = coalesce(i.usage, d.usage),
        ended_at = CASE WHEN i.final THEN now() END
    FROM input i
    WHERE d.dialogue_id = i.dialogue_id AND {HELD} AND d.turns_done = i.turn_index
      AND d.status = 'pending'
    RETURNING i.*
),"""
    + FOLDED
    + """
committed AS (
    INSERT INTO turns (dialogue_id, turn_index, user_text, assistant_text, judgement, details, worker_id)
    SELECT dialogue_id, turn_index, user_text, assistant_text, judgement, details, worker_id FROM ended
),"""
    + SPARES
    + """
SELECT op, NULL FROM ended
UNION ALL
SELECT i.op, NULL FROM input i JOIN turns t USING (dialogue_id, turn_index) WHERE t.worker_id = i.worker_id
"""
)

# A dialogue that lacks no verdict any more, or is not to be judged again, is this write, repeated.
AMEND_DIALOGUES = f"""
WITH input AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(rows)s::jsonb)
        AS t (op int, worker_id int, dialogue_id text, turns jsonb, conversation jsonb, unjudged int,
              reason text, detail text, goal jsonb, usage jsonb)
),
owned AS (
    UPDATE dialogues d SET worker_id = NULL, judgement = coalesce(i.conversation, d.judgement),
        goal_verdict = coalesce(i.goal, d.goal_verdict), usage = coalesce(i.usage, d.usage)
    FROM input i
    WHERE d.dialogue_id = i.dialogue_id AND {HELD} AND d.status = 'done'
    RETURNING i.*
),
judged AS (
    UPDATE turns t SET judgement = v.judgement
    FROM owned o, jsonb_to_recordset(o.turns) AS v (turn_index int, judgement jsonb)
    WHERE t.dialogue_id = o.dialogue_id AND t.turn_index = v.turn_index
),
folded AS (DELETE FROM outcomes f USING owned o WHERE f.dialogue_id = o.dialogue_id),
lacking AS (
    UPDATE unjudged u SET verdicts = o.unjudged, reason = o.reason, detail = o.detail, again = false
    FROM owned o WHERE u.dialogue_id = o.dialogue_id AND o.unjudged > 0
),
complete AS (DELETE FROM unjudged u USING owned o WHERE u.dialogue_id = o.dialogue_id AND o.unjudged = 0)
SELECT op, NULL FROM owned
UNION ALL
SELECT i.op, NULL FROM input i JOIN dialogues d USING (dialogue_id) LEFT JOIN unjudged u USING (dialogue_id)
WHERE d.status = 'done' AND u.again IS NOT TRUE
"""

# A dialogue that is already dropped is this write, repeated.
DROP_DIALOGUES = (
    f"""
WITH input AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(rows)s::jsonb)
        AS t (op int, worker_id int, dialogue_id text, reason text, detail text, setup text,
              spare text, usage jsonb)
),
ended AS (
    UPDATE dialogues d SET status = 'dropped', drop_reason = i.reason, drop_detail = i.detail,
        drop_setup = i.setup, worker_id = NULL, ended_at = now(), usage = coalesce(i.usage, d.usage)
    FROM input i
    WHERE d.dialogue_id = i.dialogue_id AND {HELD} AND d.status = 'pending'
    RETURNING i.op, d.dialogue_id, i.spare, d.plan_id, d.ordinal
),
unasked AS (DELETE FROM questions q USING ended e WHERE q.dialogue_id = e.dialogue_id),
cleared AS (DELETE FROM outcomes f USING ended e WHERE f.dialogue_id = e.dialogue_id),
forgotten AS (DELETE FROM unjudged u USING ended e WHERE u.dialogue_id = e.dialogue_id),
{freed("ended")},"""
    + SPARES
    + """
SELECT op, NULL FROM ended
UNION ALL
SELECT i.op, NULL FROM input i JOIN dialogues d USING (dialogue_id) WHERE d.status = 'dropped'
"""
)

# For the connection that writes. Its statements are planned once, while tables may still be empty, and
# must not go on reading whole tables when these have grown: every access is by key.
BY_KEY_ONLY = "SET enable_seqscan TO off; SET enable_hashjoin TO off; SET enable_mergejoin TO off"
