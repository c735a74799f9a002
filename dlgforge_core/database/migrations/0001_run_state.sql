-- A run is a set of plans under one content fingerprint; running it again resumes it. Not named `runs`: for a role
-- named like this schema, the default search path would show it to Dagster in place of its own table.
CREATE TABLE generation_runs (
    run_id       text PRIMARY KEY,
    fingerprint  text NOT NULL,
    config       jsonb NOT NULL,
    status       text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'complete', 'stopped')),
    stop_reason  text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);

-- A plan is the dialogues of one fingerprint, seed batch content and language.
CREATE TABLE plans (
    plan_id      text PRIMARY KEY,
    fingerprint  text NOT NULL,
    batch        text NOT NULL,
    language     text NOT NULL,
    n_dialogues  integer NOT NULL DEFAULT 0, -- how many have rows in `dialogues`
    created_at   timestamptz NOT NULL DEFAULT now()
);

-- Several runs may share a plan; each wants its first `n_dialogues`.
CREATE TABLE run_plans (
    run_id       text NOT NULL REFERENCES generation_runs ON DELETE CASCADE,
    plan_id      text NOT NULL REFERENCES plans ON DELETE CASCADE,
    n_dialogues  integer NOT NULL,
    PRIMARY KEY (run_id, plan_id)
);

-- One worker process. Its lease covers every dialogue it has claimed; besides, it holds the session
-- advisory lock (744100, worker_id) for as long as it lives, so that its death is known at once.
CREATE TABLE workers (
    worker_id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id       text NOT NULL REFERENCES generation_runs ON DELETE CASCADE,
    host         text NOT NULL,
    pid          integer NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    ended_at     timestamptz,
    stats        jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX workers_run ON workers (run_id);
CREATE INDEX workers_alive ON workers (worker_id) WHERE ended_at IS NULL;

CREATE TABLE dialogues (
    dialogue_id  text PRIMARY KEY,
    plan_id      text NOT NULL REFERENCES plans ON DELETE CASCADE,
    ordinal      integer NOT NULL,
    n_turns      smallint NOT NULL,
    plan         jsonb NOT NULL,
    status       text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'done', 'dropped')),
    drop_reason  text,
    drop_detail  text,
    turns_done   smallint NOT NULL DEFAULT 0,
    worker_id    integer,                    -- who holds the lease, while pending
    judgement    jsonb,                      -- of the whole conversation
    ended_at     timestamptz,
    UNIQUE (plan_id, ordinal)
) WITH (fillfactor = 70); -- room for the updates of turns_done to stay on their page
CREATE INDEX dialogues_claimable ON dialogues (plan_id, n_turns DESC, ordinal)
    WHERE status = 'pending' AND worker_id IS NULL;
CREATE INDEX dialogues_leased ON dialogues (worker_id) WHERE worker_id IS NOT NULL;

CREATE TABLE turns (
    dialogue_id  text NOT NULL REFERENCES dialogues ON DELETE CASCADE,
    turn_index   smallint NOT NULL,
    user_text    text NOT NULL,
    assistant_text text NOT NULL,
    judgement    jsonb,
    worker_id    integer NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dialogue_id, turn_index)
);

-- What is known of a dialogue's turn in progress: a call whose answer is here is never made again.
CREATE TABLE drafts (
    dialogue_id  text PRIMARY KEY REFERENCES dialogues ON DELETE CASCADE,
    turn_index   smallint NOT NULL,
    question     text NOT NULL,
    answer       text
);

-- Questions in normal form (16-byte digest): unique within everything made under one fingerprint.
CREATE TABLE questions (
    fingerprint  text NOT NULL,
    question_key bytea NOT NULL,
    dialogue_id  text NOT NULL REFERENCES dialogues ON DELETE CASCADE,
    turn_index   smallint NOT NULL,
    PRIMARY KEY (fingerprint, question_key)
);
CREATE INDEX questions_dialogue ON questions (dialogue_id);

-- Seed batches as they were last read, so that `dialogues` can be materialized by itself.
CREATE TABLE seed_batches (
    name         text PRIMARY KEY,
    digest       text NOT NULL,
    topics       jsonb NOT NULL,
    read_at      timestamptz NOT NULL DEFAULT now()
);
