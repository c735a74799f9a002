-- Four bits of each of 128 values of a question's MinHash signature, plane after plane: what candidates are compared
-- by after their sketch, the first plane. Rows of earlier versions have the sketch alone.
ALTER TABLE questions ADD COLUMN signature bit(512);

-- Datasets with questions that many others are like: those have longer bands, for which look-ups must ask as well.
CREATE TABLE crowded_questions (
    fingerprint  text PRIMARY KEY
);
