"""The SQL of dialogues that are finished without another turn."""

from __future__ import annotations

from dlgforge_core.store.attempts import SPARES

HELD = "d.worker_id IS NOT DISTINCT FROM i.worker_id"
"""Whether the worker that asks, of `i`, holds the dialogue `d`.

Not a plain `=`, which the index of all leases would serve as well: by statistics of before workers had
claimed, every write would go through what all workers hold.
"""

FOLDED = """
folded AS (DELETE FROM outcomes f USING ended e WHERE f.dialogue_id = e.dialogue_id),
lacking AS (
    INSERT INTO unjudged AS u (dialogue_id, verdicts, reason, detail)
    SELECT dialogue_id, unjudged, reason, detail FROM ended WHERE unjudged > 0
    ON CONFLICT (dialogue_id) DO UPDATE
    SET verdicts = u.verdicts + excluded.verdicts, reason = excluded.reason, detail = excluded.detail
),"""
"""The outcomes of the dialogues in `ended` go, and verdicts that could not be had are counted."""

# A dialogue that was finished in this way is this write, repeated.
FINISH_DIALOGUES = (
    f"""
WITH input AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(rows)s::jsonb)
        AS t (op int, worker_id int, dialogue_id text, ended_by text, conversation jsonb, unjudged int,
              reason text, detail text, shortcomings jsonb, spare text, goal jsonb, usage jsonb)
),
ended AS (
    UPDATE dialogues d SET
        status = CASE WHEN i.shortcomings IS NOT NULL THEN 'unaccepted' ELSE 'done' END,
        shortcomings = i.shortcomings, worker_id = NULL, judgement = i.conversation, goal_verdict = i.goal,
        ended_by = i.ended_by, ended_at = now(), usage = coalesce(i.usage, d.usage)
    FROM input i
    WHERE d.dialogue_id = i.dialogue_id AND {HELD} AND d.status = 'pending'
    RETURNING i.*
),"""
    + FOLDED
    + SPARES
    + """
SELECT op, NULL FROM ended
UNION ALL
SELECT i.op, NULL FROM input i JOIN dialogues d USING (dialogue_id)
WHERE d.status IN ('done', 'unaccepted') AND d.ended_by = i.ended_by
"""
)
