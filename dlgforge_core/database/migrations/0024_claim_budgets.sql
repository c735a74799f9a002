-- Of a run with `max_dialogues` a bound on how many of its dialogues are finished or claimed, so that a claim need not
-- count them: there are never more than `taken`. Whatever gives some back sets `freed`: then counting again may help.
CREATE TABLE claim_budgets (
    run_id       text PRIMARY KEY REFERENCES generation_runs ON DELETE CASCADE,
    taken        bigint, -- not counted yet while null
    counted_at   timestamptz,
    freed        boolean NOT NULL DEFAULT false
);
