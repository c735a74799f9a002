"""Failures of Postgres as StoreErrors: the cause, where, and what would help. No message holds a password."""

from __future__ import annotations

import re
from collections.abc import Mapping

import psycopg

from dlgforge_core.config import PostgresConfig
from dlgforge_core.database.dsn import dsn_values, redact_dsn
from dlgforge_core.database.privileges import WORK_GRANTS, quoted
from dlgforge_core.errors import StoreError, UnstorableError

_DISK_FULL = (
    "its disk is full: free space on it or give it more, then run the same again; what was committed is kept"
)
_STARTING = "it is starting, stopping or recovering: try again in a moment"
_READ_ONLY = (
    "it takes no writes: name the primary in the DSN if this is a standby, else end what made it read-only "
    "(default_transaction_read_only, often set where a disk is nearly full)"
)
_DAMAGED = "its disk fails or its files are damaged: see its log, and restore a backup if need be"

# By SQLSTATE or its class (the first two characters), see PostgreSQL's appendix "Error Codes": what would
# help, and whether the failure may pass by itself.
_REMEDIES: Mapping[str, tuple[str, bool]] = {
    "53100": (_DISK_FULL, True),
    "53200": ("it is out of memory: give it more, or let fewer clients use it", True),
    "53300": ("it has no connection to spare: raise its max_connections, or let fewer clients use it", True),
    "53": ("it lacks a resource: see its log", True),
    "57P01": (_STARTING, True),
    "57P02": (_STARTING, True),
    "57P03": (_STARTING, True),
    "25006": (_READ_ONLY, True),
    "58": (_DAMAGED, True),
    "XX001": (_DAMAGED, False),
    "XX002": ("an index of it is damaged: REINDEX it, and see the server's log", False),
}


class CannotConnectError(psycopg.OperationalError):
    """No connection could be opened; the message may quote the DSN."""


def store_error(error: Exception, dsn: str, settings: PostgresConfig) -> StoreError:
    """Return the StoreError to raise for a failure of psycopg on the server of `dsn`."""
    if isinstance(error, CannotConnectError):
        return connection_error(dsn, error, settings.connect_timeout_s)
    where = f"Postgres failed at {redact_dsn(dsn)}"
    problem = _first_line(error, dsn)
    if isinstance(error, psycopg.DataError):
        return UnstorableError(f"{where}: {problem}", transient=False)
    code = getattr(error, "sqlstate", None) or ""
    if code == "42501":
        return StoreError(f"{where}: {problem}; {missing_rights(dsn)}", transient=False)
    if code == "57014":
        limit = f"store.postgres.statement_timeout_s = {settings.statement_timeout_s:g}"
        return StoreError(
            f"{where}: {problem}; a statement took longer than {limit}: see what keeps the server busy, or "
            "raise the limit"
        )
    remedy, transient = _remedy(code)
    return StoreError(f"{where}: {problem}{'; ' if remedy else ''}{remedy}", transient=transient)


def shown_cause(error: Exception) -> Exception | None:
    """Return the error itself where it was not foreseen, for the traceback; it never quotes the DSN then."""
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | ConnectionError):
        return None
    code = getattr(error, "sqlstate", None) or ""
    return None if code == "42501" or remedy_for(code) else error


def remedy_for(sqlstate: str) -> str:
    """Return what would help after a failure with this SQLSTATE, of those that no query mends; else empty."""
    return _remedy(sqlstate)[0]


def _remedy(sqlstate: str) -> tuple[str, bool]:
    return _REMEDIES.get(sqlstate) or _REMEDIES.get(sqlstate[:2]) or ("", True)


def connection_error(dsn: str, error: Exception, timeout_s: float) -> StoreError:
    """Return the StoreError of a connection to `dsn` that could not be opened within `timeout_s` seconds."""
    timed_out = isinstance(error, TimeoutError)
    cause, transient = connection_problem("" if timed_out else str(error), _values(dsn), timeout_s, timed_out)
    return StoreError(f"no connection to {redact_dsn(dsn)}: {cause}", transient)


def missing_rights(dsn: str) -> str:
    """Which GRANTs the role of a DSN needs for its work on tables that are there."""
    role = quoted(_values(dsn).get("user") or "ROLE")
    grants = " ".join(grant.format(role=role) for grant in WORK_GRANTS)
    return f"as the owner of the schema, or a superuser, run: {grants}"


def _values(dsn: str) -> Mapping[str, str]:
    try:
        return dsn_values(dsn, "the Postgres DSN")
    except StoreError:
        return {}


def _first_line(error: Exception, dsn: str) -> str:
    """Return what the server reported, without its statement and details, which may be long."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    text = primary or next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return _without_password(text, _values(dsn)) or type(error).__name__


def _without_password(text: str, values: Mapping[str, str]) -> str:
    password = values.get("password")
    return text.replace(password, "***") if password else text


def connection_problem(
    text: str, values: Mapping[str, str], timeout_s: float, timed_out: bool
) -> tuple[str, bool]:
    """Return what went wrong and what would help, from libpq's words; and whether it may pass by itself."""
    user, database = values.get("user", "(none given)"), values.get("dbname", "(none given)")
    if re.search(r"password authentication failed|no password supplied|role .* does not exist", text):
        problem = "no password was given" if "no password supplied" in text else "user or password is wrong"
        return f"{problem} (user {user}); correct them in the DSN", False
    if re.search(r"authentication failed|no pg_hba\.conf entry|not permitted to log in", text):
        return f"the server does not let user {user} in this way; see its pg_hba.conf", False
    if re.search(r"database .* does not exist", text):
        return f"there is no database {database}; create it: createdb {database}", False
    if re.search(r"permission denied for database", text):
        return f"user {user} may not connect to database {database}; GRANT CONNECT to it", False
    if re.search(r"too many (clients|connections)|connection slots are reserved", text):
        return "the server has no connection to spare; raise its max_connections", True
    if "starting up" in text or "shutting down" in text or "recovery mode" in text:
        return "the server is starting or stopping; try again in a moment", True
    if "closed the connection unexpectedly" in text:
        return "the server ended the connection as it was made; try again in a moment, or see its log", True
    if re.search(r"failed to resolve host|could not translate host name|Name or service not known", text):
        return "the host's name is unknown; correct it in the DSN, or see to the name server", True
    if timed_out or re.search(r"timeout|timed out", text):
        return (
            f"no answer within {timeout_s:g} s; see that the host is right and no firewall is between",
            True,
        )
    if "refused" in text or "No such file or directory" in text:
        return "no server listens there; start it, or correct host and port in the DSN", True
    line = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")
    return _without_password(line, values), True
