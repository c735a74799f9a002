"""Preflight: what a run needs, looked at before anything is made."""
