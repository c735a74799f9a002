"""Distributed runs: bootstrap, coordinator and worker actors."""
