"""Checks and figures of dialogues: repeats, languages, leaks, verdicts."""
