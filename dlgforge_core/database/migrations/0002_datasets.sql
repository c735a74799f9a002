-- Several datasets (recipes) live in one database: seed batches and runs belong to one of them. '' is the default.
ALTER TABLE seed_batches ADD COLUMN dataset text NOT NULL DEFAULT '';
ALTER TABLE seed_batches DROP CONSTRAINT seed_batches_pkey;
ALTER TABLE seed_batches ADD PRIMARY KEY (dataset, name);
ALTER TABLE generation_runs ADD COLUMN dataset text NOT NULL DEFAULT '';
CREATE INDEX generation_runs_latest ON generation_runs (dataset, updated_at DESC);

-- What stood behind an answer: evidence, tool events, reasoning (dialogue.TurnDetails); null when nothing did.
ALTER TABLE turns ADD COLUMN details jsonb;
ALTER TABLE drafts ADD COLUMN details jsonb;
