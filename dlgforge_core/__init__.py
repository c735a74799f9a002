"""dlgforge without Dagster: configuration, planning, generation, run state and runtime."""
