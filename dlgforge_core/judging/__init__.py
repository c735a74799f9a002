"""Offline judging: finished dialogues, by one or several judges, and how far these agree."""
