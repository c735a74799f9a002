"""Measured claims, each with the command that makes it."""
