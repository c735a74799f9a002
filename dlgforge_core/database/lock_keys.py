"""Keys of our Postgres advisory locks, all in one module so that no two are the same.

Each is the first of a lock's two keys, and says what the lock is for; the second says which one. They share
the database with whoever else locks there, hence the numbers out of the way. Never change one: processes of
two versions would no longer see each other's locks.
"""

from __future__ import annotations

QUESTIONS = 744_097
"""Reserving questions under one fingerprint, where near-copies are rejected."""
MIGRATIONS = 744_099
"""Migrating the schema; the only key of its lock."""
WORKERS = 744_100
"""That a worker lives, by its number."""
SLOTS = 744_110
"""The places of runs that use the endpoints, counted from 0."""
PROCESSES = 744_111
"""That the process which works on something lives."""
JUDGING = 744_112
"""Judging under one fingerprint with one judge."""
ATTEMPTS = 744_113
"""Taking dialogues up again that had ended, or replacing them, on resume; the only key of its lock."""
ASSIGNMENTS = 744_120
"""Giving out documents under one fingerprint."""
KNOWLEDGE = 744_121
"""Changing one dataset's knowledge."""
