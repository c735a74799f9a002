-- What a judge says by a rubric: dimensions, question_ok, answer_ok. Null without one.
ALTER TABLE judgements ADD COLUMN ratings jsonb;
