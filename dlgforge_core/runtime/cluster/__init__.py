"""Ray clusters: found, started, watched, ended."""
