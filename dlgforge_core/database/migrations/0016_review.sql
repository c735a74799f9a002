-- What the review page lists: a row for each dialogue that has ended, with what it is filtered and ordered by. The page
-- fills it, and no run does: generating costs nothing more. `version` names the state of the rows that it was made
-- from; one that differs is made anew. Narrow, so that even a filter that no index serves reads all of it at once.
CREATE TABLE review_dialogues (
    dialogue_id  text PRIMARY KEY REFERENCES dialogues ON DELETE CASCADE,
    version      text NOT NULL,
    plan_id      text NOT NULL,
    ordinal      integer NOT NULL,
    status       text NOT NULL,
    drop_reason  text,
    language     text NOT NULL,
    topic        text NOT NULL,              -- as it is searched: folded, cut
    n_turns      smallint NOT NULL,
    score        real,                       -- mean of the verdicts that count; null without any
    ended_by     text,
    goal_met     boolean,
    facets       text[] NOT NULL,            -- kind:value, of judges' reasons, attributes and tools
    ended_at     timestamptz NOT NULL
);
CREATE INDEX review_dialogues_newest ON review_dialogues (ended_at DESC, dialogue_id DESC);
CREATE INDEX review_dialogues_lowest ON review_dialogues ((coalesce(score, 11)), dialogue_id);
CREATE INDEX review_dialogues_highest ON review_dialogues ((coalesce(score, -1)) DESC, dialogue_id DESC);
CREATE INDEX review_dialogues_facets ON review_dialogues USING gin (facets);

-- The words of dialogues, apart: lists that search nothing never read them. Folded before they come here, so that the
-- server's locale does not matter; trigrams (pg_trgm) would need an extension that a role with few rights cannot make.
CREATE TABLE review_texts (
    dialogue_id  text PRIMARY KEY REFERENCES dialogues ON DELETE CASCADE,
    words        tsvector NOT NULL
) WITH (toast_tuple_target = 128); -- what the index finds is looked up without reading the words themselves
CREATE INDEX review_texts_words ON review_texts USING gin (words);

-- What people think of dialogues: each reviewer's latest mark counts.
CREATE TABLE review_marks (
    dialogue_id  text NOT NULL REFERENCES dialogues ON DELETE CASCADE,
    reviewer     text NOT NULL,
    verdict      text NOT NULL CHECK (verdict IN ('good', 'bad')),
    label        text NOT NULL,
    comment      text NOT NULL,
    marked_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dialogue_id, reviewer)
);

-- Other words for a message, one row for each revision: the latest counts, and the original is never changed. A null
-- text takes the revisions back.
CREATE TABLE review_edits (
    dialogue_id  text NOT NULL REFERENCES dialogues ON DELETE CASCADE,
    turn_index   smallint NOT NULL,
    part         text NOT NULL CHECK (part IN ('opening', 'user', 'assistant')),
    revision     integer NOT NULL,
    reviewer     text NOT NULL,
    text         text,
    edited_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dialogue_id, turn_index, part, revision)
);
