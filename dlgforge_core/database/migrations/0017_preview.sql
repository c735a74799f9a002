-- The calls of dialogues that a preview has made, to show them and to estimate by: prompt, answer, tokens, cost.
CREATE TABLE preview_calls (
    call_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dialogue_id  text NOT NULL REFERENCES dialogues ON DELETE CASCADE,
    data         jsonb NOT NULL
);
CREATE INDEX preview_calls_dialogue ON preview_calls (dialogue_id);
