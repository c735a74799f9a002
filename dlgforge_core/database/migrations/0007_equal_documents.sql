-- Documents of equal text count as one. Empty for those that were read before.
ALTER TABLE knowledge_documents ADD COLUMN text_key bytea NOT NULL DEFAULT '';
