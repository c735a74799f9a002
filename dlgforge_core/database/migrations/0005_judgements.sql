-- Verdicts given after the dialogues were made. Those given meanwhile stay in turns.judgement and
-- dialogues.judgement. A judge is everything that makes a verdict: model, sampling, prompt, reasons,
-- granularity; `judge_key` is the digest of that.
CREATE TABLE judges (
    judge_key    text PRIMARY KEY,
    model        text NOT NULL,
    settings     jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE judgements (
    dialogue_id  text NOT NULL REFERENCES dialogues ON DELETE CASCADE,
    turn_index   smallint NOT NULL,          -- -1 for the whole conversation
    judge_key    text NOT NULL REFERENCES judges,
    score        smallint NOT NULL CHECK (score BETWEEN 0 AND 10),
    reasons      text[] NOT NULL,
    comment      text NOT NULL,
    text_digest  bytea NOT NULL,             -- of what was judged: another text is judged again
    judged_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dialogue_id, turn_index, judge_key)
);

-- Who judged what was made under one fingerprint: `judges` is a list of [judge_key, name], in the order of
-- the configuration. Exports take the verdicts of the latest one.
CREATE TABLE judgings (
    dataset      text NOT NULL,
    fingerprint  text NOT NULL,
    judging_id   text NOT NULL,              -- digest of `judges`
    judges       jsonb NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,                -- null while a sitting has not come to its end
    PRIMARY KEY (dataset, fingerprint, judging_id)
);
