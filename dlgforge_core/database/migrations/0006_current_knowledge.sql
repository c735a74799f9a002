-- The index that a dataset's next run draws on; no row: its dialogues are not grounded. `embedding` is the
-- configuration of what embeds queries (it names where a key is, never the key).
CREATE TABLE knowledge_current (
    dataset      text PRIMARY KEY,
    index_id     text NOT NULL,
    embedding    jsonb NOT NULL,
    chosen_at    timestamptz NOT NULL DEFAULT now()
);
