"""DSNs: finding the connection string of the run state's Postgres, checking and showing it.

No message made here, and no `repr`, contains a password.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from dlgforge_core.common.hosts import is_loopback
from dlgforge_core.errors import StoreError

DSN_ENV = "DLGFORGE_POSTGRES_DSN"
_DRIVER = re.compile(r"^postgres(?:ql)?\+\w+://")  # SQLAlchemy's form; the driver is no business of libpq
_URI = ("postgresql://", "postgres://")
_FORMS = 'write postgresql://USER:PASSWORD@HOST:5432/DATABASE or "host=HOST user=USER dbname=DATABASE"'
_ENCODE = 'special characters in user or password are percent-encoded in a URI ("@" is %40, "/" is %2F)'

# libpq's complaints quote pieces of the DSN, which may be of the password: only what they begin with is used.
_MALFORMED = (
    (
        "invalid percent-encoded token",
        'a "%" is not followed by two hexadecimal digits; a "%" itself is written %25',
    ),
    ("unexpected spaces", "it contains a space; in a URI a space is written %20"),
    ("unterminated quoted string", "a quoted value is not closed with '"),
    ("invalid URI query parameter", 'a parameter after "?" is not one that Postgres knows'),
    ("invalid connection option", "a key is not one that Postgres knows"),
    ("missing key/value separator", 'a parameter after "?" has no "="'),
    ("end of string reached", 'an IPv6 address is not closed with "]"'),
    ("forbidden value %00", "it contains %00"),
)


class DsnSource(Enum):
    """Where a DSN was found; the value names the place for messages."""

    CONFIG = "store.postgres.dsn"
    ENVIRONMENT = DSN_ENV
    INSTANCE = "the Dagster instance's storage"
    EMBEDDED = "the embedded Postgres"


class Reach(Enum):
    """From where a DSN's server can be reached."""

    SOCKET = "socket"  # a unix socket: processes of this machine
    LOOPBACK = "loopback"  # a TCP address of this machine only
    NETWORK = "network"


@dataclass(frozen=True)
class ResolvedDsn:
    """A checked DSN and where it comes from; the DSN stays out of the `repr`."""

    dsn: str = field(repr=False)
    source: DsnSource


def resolve_dsn(
    configured: SecretStr, env: Mapping[str, str], instance_dsn: str | None, home: Path
) -> ResolvedDsn:
    """Find the run state's DSN: configured, then DLGFORGE_POSTGRES_DSN, the instance's own, the embedded one.

    Only in the last case is the embedded server of `home` started, for as long as this process lives. Raises
    StoreError for a malformed DSN, naming where it was found, and when the embedded server does not start.
    """
    given = (
        (configured.get_secret_value(), DsnSource.CONFIG),
        (env.get(DSN_ENV, ""), DsnSource.ENVIRONMENT),
        (instance_dsn or "", DsnSource.INSTANCE),
    )
    for dsn, source in given:
        if dsn.strip():
            return ResolvedDsn(check_dsn(dsn, source.value), source)
    from dlgforge_core.database.embedded import embedded_dsn  # needs POSIX locks, which a given DSN does not

    return ResolvedDsn(embedded_dsn(home), DsnSource.EMBEDDED)


def check_dsn(dsn: str, name: str = "the Postgres DSN") -> str:
    """Return `dsn` in the form libpq takes, or raise StoreError saying what is wrong with it.

    URIs and key=value strings are taken, also SQLAlchemy's `postgresql+driver://`. `name` says in messages
    where the DSN comes from.
    """
    dsn = _DRIVER.sub("postgresql://", dsn.strip())
    dsn_values(dsn, name)
    return dsn


def redact_dsn(dsn: str) -> str:
    """Show where a DSN leads, without its password; a malformed DSN is not shown at all."""
    try:
        values = dsn_values(_DRIVER.sub("postgresql://", dsn.strip()), "")
    except StoreError:
        return "<malformed DSN>"
    if "service" in values:
        return f"service={values['service']}"
    user = values.get("user", "") + (":***" if "password" in values else "")
    hosts = (values.get("hostaddr") or values.get("host") or "").split(",")
    ports = values.get("port", "").split(",")
    addresses = []
    for number, host in enumerate(hosts):
        port = ports[number] if len(ports) == len(hosts) else ports[0]
        shown = f"[{host}]" if ":" in host and not host.startswith("/") else host
        addresses.append(shown + (f":{port}" if port else ""))
    return f"postgresql://{user}{'@' if user else ''}{','.join(addresses)}/{values.get('dbname', '')}"


def has_password(dsn: str) -> bool:
    """Say whether a DSN holds a password itself; a malformed one counts as one that does not."""
    try:
        return "password" in dsn_values(_DRIVER.sub("postgresql://", dsn.strip()), "")
    except StoreError:
        return False


def reach(dsn: str) -> Reach:
    """Say from where the server of a DSN can be reached. Raises StoreError when it is malformed."""
    values = dsn_values(check_dsn(dsn), "the Postgres DSN")
    hosts = (values.get("hostaddr") or values.get("host") or "").split(",")
    if hosts == [""]:
        # What a service file names is not known here; without one, libpq takes the default socket.
        return Reach.NETWORK if "service" in values else Reach.SOCKET
    found = {_reach_of_host(host) for host in hosts}
    return next(kind for kind in (Reach.NETWORK, Reach.LOOPBACK, Reach.SOCKET) if kind in found)


def is_local_only(dsn: str) -> bool:
    """Say whether only this machine can reach the server of a DSN: a unix socket or a loopback address."""
    return reach(dsn) is not Reach.NETWORK


def dsn_values(dsn: str, name: str) -> dict[str, str]:
    """Return the DSN's settings as libpq reads them. Raises StoreError."""
    if not dsn:
        raise StoreError(f"{name} is empty; {_FORMS}")
    scheme = re.match(r"([A-Za-z][\w+.-]*)://", dsn)
    if scheme and not dsn.startswith(_URI):
        raise StoreError(f"{name} begins with {scheme[1]}://, which is not Postgres; {_FORMS}")
    try:
        values: dict[str, str] = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value}
    except (psycopg.Error, UnicodeError, ValueError) as error:
        text = str(error)
        fault = next((reason for start, reason in _MALFORMED if start in text[: len(start)]), "")
        raise StoreError(
            f"{name} is malformed: {fault or 'it is neither a URI nor key=value pairs'}; {_FORMS}; {_ENCODE}"
        ) from None
    if dsn.startswith(_URI) and any(
        "@" in value for key, value in values.items() if key in ("host", "hostaddr", "port", "dbname")
    ):
        raise StoreError(f'{name} is malformed: there is an "@" after the host; {_ENCODE}')
    for port in values.get("port", "").split(","):
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise StoreError(
                f"{name} is malformed: its port is not a number from 1 to 65535; {_FORMS}; {_ENCODE}"
            )
    return values


def _reach_of_host(host: str) -> Reach:
    if not host or host.startswith(("/", "@")):
        return Reach.SOCKET
    return Reach.LOOPBACK if is_loopback(host) else Reach.NETWORK
