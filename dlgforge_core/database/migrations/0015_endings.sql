-- Why a dialogue ended where it did, null: it has as many turns as were planned. And the verdict on the user's goal,
-- where the judge was asked for that alone: {"met": true, "reason": "..."}.
ALTER TABLE dialogues
    ADD COLUMN ended_by text,
    ADD COLUMN goal_verdict jsonb;
