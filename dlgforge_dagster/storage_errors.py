"""Storage errors: a failure of Dagster's tables that no other try heals is explained, with the remedy."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL, Engine, ExceptionContext, make_url

from dlgforge_core.database.dsn import redact_dsn
from dlgforge_core.database.failures import remedy_for
from dlgforge_core.database.privileges import quoted
from dlgforge_core.errors import StoreError

# Failures that no other try of Dagster's heals: rights, a full disk, a read-only server, damaged files.
_LASTING = ("42501", "53100", "25006", "58030", "XX001", "XX002")

_NO_SPACE = "No space left on device"

_explained: set[URL] = set()


def explain_errors(url: str) -> None:
    """Have such failures of every engine at an SQLAlchemy URL raised as StoreErrors with the remedy."""
    _explained.add(make_url(url))
    if not event.contains(Engine, "handle_error", _explain):
        event.listen(Engine, "handle_error", _explain)


def _explain(context: ExceptionContext) -> StoreError | None:
    # What is returned is raised in place of SQLAlchemy's exception.
    url = context.engine.url if context.engine is not None else None
    if url not in _explained:
        return None
    error: Any = context.original_exception
    code = getattr(error, "pgcode", None) or ""
    if not code and _NO_SPACE in str(error):  # a connection that could not be opened has no code
        code = "53100"
    if code not in _LASTING:
        return None
    diagnostics = getattr(error, "diag", None)
    problem = getattr(diagnostics, "message_primary", None) or str(error).strip()
    where = redact_dsn(url.set(drivername="postgresql").render_as_string(hide_password=True))
    remedy = _grants(url) if code == "42501" else remedy_for(code)
    return StoreError(f"Dagster's storage at {where} failed: {problem}; {remedy}", transient=False)


def _grants(url: URL) -> str:
    role = quoted(url.username or "ROLE")
    return (
        "as the database's owner, or a superuser, run: "
        f"GRANT USAGE, CREATE ON SCHEMA public TO {role}; and, if its tables are there already and another "
        f"role made them, GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}; "
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role};"
    )
