-- Where near-copies are rejected: the questions of a fingerprint in the order in which they were kept, in groups. Workers
-- read on from where they are and look for candidates in an index of their own. `tag` is drawn at random, and tells a row
-- from another one that came to its number (after a fail-over, or a restored dump). The bytes of `entries` do not compress.
CREATE TABLE question_log (
    fingerprint  text NOT NULL,
    seq          bigint NOT NULL,
    tag          bigint NOT NULL,
    entries      bytea NOT NULL,
    PRIMARY KEY (fingerprint, seq)
);
ALTER TABLE question_log ALTER COLUMN entries SET STORAGE EXTERNAL;

-- Questions of earlier versions come into it when somebody reserves under their fingerprint, those of greater keys
-- than `after` next.
CREATE TABLE unlogged_questions (
    fingerprint  text PRIMARY KEY,
    after        bytea NOT NULL
);
INSERT INTO unlogged_questions
SELECT DISTINCT fingerprint, ''::bytea FROM questions WHERE normal_form IS NOT NULL;

DROP INDEX questions_bands;
DROP TABLE crowded_questions;
ALTER TABLE questions DROP COLUMN sketch, DROP COLUMN bands, DROP COLUMN signature;
