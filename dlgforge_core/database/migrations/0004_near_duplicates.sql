-- What near-copies of a question are found by: hashes of the bands of its MinHash signature, salted with the
-- fingerprint; a sketch, one bit of each signature value, that leaves out most of the others; and its normal form,
-- by which a candidate is verified. Null where only exact repeats count, and in rows of earlier versions: those are
-- compared by their key alone.
ALTER TABLE questions ADD COLUMN normal_form text, ADD COLUMN sketch bit(128), ADD COLUMN bands bigint[];

-- Without fastupdate: a pending list would be read whole by every look-up.
CREATE INDEX questions_bands ON questions USING gin (bands) WITH (fastupdate = off) WHERE bands IS NOT NULL;

-- Nothing is ever planned by what the bands hold.
ALTER TABLE questions ALTER COLUMN bands SET STATISTICS 0;
