-- What the checks found is kept by parts of a plan, so that of a plan that grows only the new dialogues are looked at.
-- What was kept of whole plans is found again.
DROP TABLE check_findings;
CREATE TABLE check_findings (
    plan_id      text REFERENCES plans ON DELETE CASCADE,
    first        integer NOT NULL,
    stop         integer NOT NULL,
    key          bytea NOT NULL,
    findings     jsonb NOT NULL,
    PRIMARY KEY (plan_id, first)
);
