"""Scheduling: call slots, background work, sampling seeds."""
