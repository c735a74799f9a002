"""Prompts of each role, quoting of material, and reading of model output."""
