-- What the checks found in a plan's dialogues, so that a partition's run need not look at all the others again. The key
-- is of everything it depends on: the plan's finished dialogues, the checks' configuration, languages and code.
CREATE TABLE check_findings (
    plan_id      text PRIMARY KEY REFERENCES plans ON DELETE CASCADE,
    key          bytea NOT NULL,
    findings     jsonb NOT NULL
);
