-- One session of offline judging, by one or more workers: which plans are judged, and how far dialogues were claimed. It
-- ends with the process that began it; whoever has the right to judge the same removes it.
CREATE TABLE judging_sessions (
    session_id   text PRIMARY KEY,
    fingerprint  text NOT NULL,
    judge_keys   text[] NOT NULL,
    plans        jsonb NOT NULL,             -- list of [plan_id, n_dialogues]
    plan_number  integer NOT NULL,           -- the one that dialogues are claimed of
    after        integer NOT NULL,           -- the last ordinal of it that was claimed
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX judging_sessions_fingerprint ON judging_sessions (fingerprint);

-- Dialogues of a session that are being judged: a row goes when its dialogue is finished with.
CREATE TABLE judging_claims (
    session_id   text NOT NULL REFERENCES judging_sessions ON DELETE CASCADE,
    dialogue_id  text NOT NULL,
    worker_id    integer,                    -- null: its worker has let go of it, or died
    PRIMARY KEY (session_id, dialogue_id)
);
CREATE INDEX judging_claims_worker ON judging_claims (worker_id) WHERE worker_id IS NOT NULL;

-- A worker belongs to a run, or to a session of judging. Then it keeps its verdicts' tallies, in the transactions that
-- write these.
ALTER TABLE workers ALTER run_id DROP NOT NULL;
ALTER TABLE workers ADD COLUMN session_id text REFERENCES judging_sessions ON DELETE CASCADE;
ALTER TABLE workers ADD COLUMN tallies jsonb;
ALTER TABLE workers ADD CHECK ((run_id IS NULL) <> (session_id IS NULL));
CREATE INDEX workers_session ON workers (session_id) WHERE session_id IS NOT NULL;
