"""Documents: read, cut into chunks, indexed, searched, and dealt out to dialogues."""
