"""The SQL of claims: which dialogues a worker gets, and how many under a budget."""

from __future__ import annotations

RECOUNT_S = 30
"""After how many seconds a claim for which there is no room counts again, whatever it knows of."""

FEW_PLANS = 4
"""Of more plans a claim locks no more than it takes; see `CLAIM`."""

COUNT_PLANS = "SELECT count(*) FROM run_plans WHERE run_id = %(run)s"

# What was picked becomes the worker's: of each the turns that were committed, and the outcomes of the turn
# after them.
_CLAIMED = """
claimed AS (
    UPDATE dialogues d SET worker_id = %(me)s FROM picked
    WHERE d.dialogue_id = picked.dialogue_id
      AND EXISTS (SELECT 1 FROM workers w WHERE w.worker_id = %(me)s AND w.ended_at IS NULL)
    RETURNING d.dialogue_id, d.plan, d.turns_done, d.n_turns, d.ordinal, d.plan_id, d.judgement,
              d.goal_verdict, d.usage, {attempt} AS attempt
){more}
SELECT c.plan,
       CASE WHEN c.turns_done > 0 THEN (
           SELECT jsonb_agg(jsonb_build_array(t.turn_index, t.user_text, t.assistant_text, t.judgement,
                                              t.details) ORDER BY t.turn_index)
           FROM turns t WHERE t.dialogue_id = c.dialogue_id) END,
       (SELECT jsonb_agg(jsonb_build_array(o.kind, o.data) ORDER BY o.position)
        FROM outcomes o WHERE o.dialogue_id = c.dialogue_id AND o.turn_index = c.turns_done),
       c.attempt, c.judgement, c.goal_verdict,
       coalesce((SELECT o.usage FROM outcomes o
                 WHERE o.dialogue_id = c.dialogue_id AND o.turn_index = c.turns_done AND o.usage IS NOT NULL
                 ORDER BY o.position DESC LIMIT 1), c.usage)
FROM claimed c
ORDER BY c.n_turns DESC, c.ordinal
"""

AMONG = "(%(among)s::text[] IS NULL OR d.dialogue_id = ANY(%(among)s))"
"""A part of the run's dialogues `d`, or with null all of them."""

# Runs may share plans: what one claims counts for the budgets of all.
_TAKEN = """,
taken AS (
    UPDATE claim_budgets b SET taken = b.taken + n.claimed FROM (
        SELECT other.run_id, count(*) AS claimed
        FROM claim_budgets other JOIN run_plans rp USING (run_id) JOIN claimed c USING (plan_id)
        WHERE c.ordinal < rp.n_dialogues GROUP BY 1
    ) n
    WHERE b.run_id = n.run_id
)"""

_FREE = f"""
        SELECT d.dialogue_id, d.n_turns, d.ordinal FROM dialogues d
        WHERE d.plan_id = rp.plan_id AND d.status = 'pending' AND d.worker_id IS NULL
          AND d.ordinal < rp.n_dialogues AND {AMONG}
        ORDER BY d.n_turns DESC, d.ordinal"""

CLAIM = f"""
WITH picked AS (
    SELECT c.dialogue_id FROM run_plans rp, LATERAL ({_FREE} LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ) c
    WHERE rp.run_id = %(run)s
    ORDER BY c.n_turns DESC, c.ordinal LIMIT %(limit)s
),""" + _CLAIMED.format(attempt="0", more=_TAKEN)
"""Leases free dialogues, past those that others lock. It locks as many of every plan as it may take."""

# Plans go forward side by side, so that a worker's share of each is about the same; twice that is looked at,
# and no more is locked than taken. It may find less than there is: what others lock just then, or more of one
# plan.
CLAIM_OF_MANY_PLANS = f"""
WITH of_each AS (
    SELECT greatest(1, ceil(2.0 * %(limit)s / count(*)))::int AS n FROM run_plans WHERE run_id = %(run)s
),
picked AS (
    SELECT d.dialogue_id FROM (
        SELECT c.dialogue_id, c.n_turns, c.ordinal
        FROM run_plans rp, LATERAL ({_FREE} LIMIT (SELECT n FROM of_each)) c
        WHERE rp.run_id = %(run)s
    ) c JOIN dialogues d USING (dialogue_id)
    WHERE d.status = 'pending' AND d.worker_id IS NULL
    ORDER BY c.n_turns DESC, c.ordinal LIMIT %(limit)s FOR UPDATE OF d SKIP LOCKED
),""" + _CLAIMED.format(attempt="0", more=_TAKEN)
"""Leases free dialogues of many plans; `CLAIM` finds those that it has left."""

# Finished dialogues that are to be given the verdicts they lack; they stay finished meanwhile.
CLAIM_UNJUDGED = f"""
WITH picked AS (
    SELECT d.dialogue_id, u.attempt
    FROM unjudged u JOIN dialogues d USING (dialogue_id) JOIN run_plans rp USING (plan_id)
    WHERE u.again AND rp.run_id = %(run)s AND d.ordinal < rp.n_dialogues
      AND d.status = 'done' AND d.worker_id IS NULL AND {AMONG}
    ORDER BY u.verdicts DESC, d.dialogue_id LIMIT %(limit)s FOR UPDATE OF d SKIP LOCKED
),""" + _CLAIMED.format(attempt="picked.attempt", more="")

# Under a budget the claims of all workers take turns, so that together they keep to it: this locks the run's
# row. A statement of its own: what comes after it must see what the claim before it took.
BUDGET = f"""
INSERT INTO claim_budgets AS b (run_id) VALUES (%(run)s) ON CONFLICT (run_id) DO UPDATE SET taken = b.taken
RETURNING taken,
          freed OR counted_at IS NULL OR counted_at < clock_timestamp() - interval '{RECOUNT_S} seconds'
"""

COUNT_TAKEN = """
UPDATE claim_budgets SET freed = false, counted_at = clock_timestamp(), taken = (
    SELECT count(*) FROM run_plans rp JOIN dialogues d USING (plan_id)
    WHERE rp.run_id = %(run)s AND d.ordinal < rp.n_dialogues
      AND (d.status IN ('done', 'unaccepted') OR d.worker_id IS NOT NULL))
WHERE run_id = %(run)s RETURNING taken
"""


def freed(gone: str) -> str:
    """Return the part of a statement that notes of budgets that dialogues in `gone` take no room any more."""
    return f"""freed AS (
    UPDATE claim_budgets b SET freed = true WHERE EXISTS (
        SELECT FROM run_plans rp JOIN {gone} g USING (plan_id)
        WHERE rp.run_id = b.run_id AND g.ordinal < rp.n_dialogues))"""
