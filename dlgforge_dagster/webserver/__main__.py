"""`dagster-webserver` with the guard in front: python -m dlgforge_dagster.webserver -w workspace.yaml."""

from __future__ import annotations

from typing import Any

from dagster_webserver import cli as module

from dlgforge_dagster.webserver.guard import RequestGuard


def main() -> None:
    """Run Dagster's own program; every application that it makes is behind the guard."""
    cli: Any = module
    make_app = cli.create_app_from_workspace_process_context

    def guarded_app(*args: Any, **kwargs: Any) -> RequestGuard:
        return RequestGuard(make_app(*args, **kwargs))

    # The function that the program calls by this name; there is no parameter for a middleware.
    cli.create_app_from_workspace_process_context = guarded_app
    cli.main()


if __name__ == "__main__":
    main()
