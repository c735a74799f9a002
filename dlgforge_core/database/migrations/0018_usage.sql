-- The calls that were made for a dialogue, by role: tokens and cost, those of earlier attempts and of a turn in progress
-- included. Always the whole amount, so that a write can be repeated.
ALTER TABLE dialogues ADD COLUMN usage jsonb;
ALTER TABLE outcomes ADD COLUMN usage jsonb;

-- Null where nothing was counted, or the price is not known.
ALTER TABLE review_dialogues ADD COLUMN dollars double precision;
CREATE INDEX review_dialogues_dearest ON review_dialogues ((coalesce(dollars, -1)) DESC, dialogue_id DESC);
