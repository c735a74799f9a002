"""Dagster's webserver behind a guard, by itself and as part of `dagster dev`.

For others: `guard.RequestGuard`. `python -m dlgforge_dagster.webserver` takes the arguments of
`dagster-webserver`, `python -m dlgforge_dagster.webserver.dev` those of `dagster dev`.
"""
