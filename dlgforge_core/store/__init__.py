"""Run state in Postgres: claims, outcomes, turns, questions, results."""
