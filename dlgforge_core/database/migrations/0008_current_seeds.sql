-- The content of the seed batch that a plan was made from: what is told of everything made under a fingerprint is
-- of today's seeds alone. Null in plans of earlier versions that were not planned again: these go by the batch's name.
ALTER TABLE plans ADD COLUMN batch_digest text;
