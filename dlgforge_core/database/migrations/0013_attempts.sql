-- Attempts at the same sample: the planned dialogue is the first, 0; a spare takes the place of one that was dropped or
-- not accepted, and is opened in the transaction that ends it. `shortcomings` of an unaccepted dialogue says by name
-- what it lacks.
ALTER TABLE dialogues
    ADD COLUMN attempt smallint NOT NULL DEFAULT 0,
    ADD COLUMN shortcomings jsonb,
    DROP CONSTRAINT dialogues_plan_id_ordinal_key,
    ADD CONSTRAINT dialogues_attempt UNIQUE (plan_id, ordinal, attempt),
    DROP CONSTRAINT dialogues_status_check,
    ADD CONSTRAINT dialogues_status_check CHECK (status IN ('pending', 'done', 'unaccepted', 'dropped'));
