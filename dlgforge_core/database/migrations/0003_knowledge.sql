-- The documents that dialogues are grounded in. Everything is kept by dataset; '' is the default one.

-- A file as it was last read: the same state and settings mean that it need not be read again.
CREATE TABLE knowledge_sources (
    dataset      text NOT NULL,
    source       text NOT NULL,              -- its name within the knowledge folder
    state        text NOT NULL,
    settings     text NOT NULL,              -- digest of what decides how it is read and cut
    problems     jsonb NOT NULL DEFAULT '[]',
    read_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dataset, source)
);

-- What the sources hold now. `chunk_ids`: 16 bytes each, in order.
CREATE TABLE knowledge_documents (
    dataset      text NOT NULL,
    document     text NOT NULL,
    source       text NOT NULL,
    title        text NOT NULL,
    language     text NOT NULL,              -- ISO 639-1, or empty when it cannot be told
    n_chars      integer NOT NULL,
    chunk_ids    bytea NOT NULL,
    PRIMARY KEY (dataset, document),
    FOREIGN KEY (dataset, source) REFERENCES knowledge_sources ON DELETE CASCADE
);
CREATE INDEX knowledge_documents_source ON knowledge_documents (dataset, source);

-- Chunks never change: an id is a digest of all that the row says. They outlive their document for as long
-- as an index names them.
CREATE TABLE knowledge_chunks (
    dataset      text NOT NULL,
    chunk_id     bytea NOT NULL,
    document     text NOT NULL,
    ordinal      integer NOT NULL,
    start_char   integer NOT NULL,           -- where it starts in the document's text
    language     text NOT NULL,
    text         text NOT NULL,
    text_key     bytea NOT NULL,             -- digest of `text`
    PRIMARY KEY (dataset, chunk_id)
);

-- Embeddings by text, so that a text that moves is not embedded again. float16, little-endian, of length 1.
CREATE TABLE knowledge_vectors (
    dataset      text NOT NULL,
    model        text NOT NULL,
    text_key     bytea NOT NULL,
    vector       bytea NOT NULL,
    PRIMARY KEY (dataset, model, text_key)
);

-- Built indexes, under a digest of their chunks and settings. Runs keep to the one they began with.
CREATE TABLE knowledge_indexes (
    dataset      text NOT NULL,
    index_id     text NOT NULL,
    settings     jsonb NOT NULL,
    n_documents  integer NOT NULL,
    n_chunks     integer NOT NULL,
    n_bytes      bigint NOT NULL,
    built_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dataset, index_id)
);

CREATE TABLE knowledge_index_parts (
    dataset      text NOT NULL,
    index_id     text NOT NULL,
    name         text NOT NULL,
    part         integer NOT NULL,
    data         bytea STORAGE EXTERNAL NOT NULL, -- numbers hardly compress
    PRIMARY KEY (dataset, index_id, name, part),
    FOREIGN KEY (dataset, index_id) REFERENCES knowledge_indexes ON DELETE CASCADE
);

-- Which document a dialogue is grounded in, and how often each was given, under one content fingerprint.
CREATE TABLE knowledge_assignments (
    fingerprint  text NOT NULL,
    dialogue_id  text NOT NULL,
    document     text NOT NULL,
    nth          integer NOT NULL,           -- how often the document had been given before
    PRIMARY KEY (fingerprint, dialogue_id)
);

CREATE TABLE knowledge_uses (
    fingerprint  text NOT NULL,
    document     text NOT NULL,
    uses         integer NOT NULL,
    PRIMARY KEY (fingerprint, document)
) WITH (fillfactor = 70); -- room for the updates of uses to stay on their page
