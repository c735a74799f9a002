"""Dagster's instance storage: dagster-postgres, on a server of the user's or on the embedded one.

`dagster.yaml` names `DlgforgeStorage`. Dagster's tables lie in the schema `public`, the run state of dlgforge
beside them in its own.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode

from dagster import DagsterInstance, Field, StringSource
from dagster._config.config_schema import UserConfigSchema
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage, PostgresRunStorage
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import URL, make_url

from dlgforge_core.database.dsn import DSN_ENV, check_dsn
from dlgforge_core.database.embedded import dlgforge_home, embedded_dsn
from dlgforge_core.database.ping import PingError, ping_blocking
from dlgforge_core.errors import StoreError
from dlgforge_dagster.storage_errors import explain_errors

_PING_S = 5.0


class DlgforgeStorage(DagsterPostgresStorage):
    """dagster-postgres on the DSN `dsn`, else on $DLGFORGE_POSTGRES_DSN, else on the embedded Postgres.

    The environment is read here and not by `env:` in dagster.yaml, where an unset variable would break every
    command. The embedded server runs for as long as any process that made an instance.
    """

    def __init__(
        self,
        dsn: str = "",
        home: str = "",
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        _make_log_folder()
        given = dsn or os.environ.get(DSN_ENV, "").strip()
        if given:
            name = "the DSN of the instance storage" if dsn else DSN_ENV
            self.dsn = check_dsn(given, name)
            _fail_early(self.dsn)
        else:
            self.dsn = embedded_dsn(_configured_home(home) if home else dlgforge_home(os.environ))
        url = sqlalchemy_url(self.dsn)
        explain_errors(url)
        try:
            super().__init__(postgres_url=url, inst_data=inst_data)
        except StoreError:
            raise
        except Exception:
            # This says in plain words what is wrong with the connection, if it is.
            ping_blocking(self.dsn, _PING_S)
            raise

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Return the settings that dagster.yaml takes."""
        return {
            "dsn": Field(
                StringSource,
                is_required=False,
                description="Connection string of a Postgres server. Empty: $DLGFORGE_POSTGRES_DSN, then the "
                "embedded server.",
            ),
            "home": Field(
                StringSource,
                is_required=False,
                description="Folder of the embedded server; relative to $DAGSTER_HOME. "
                "Empty: $DLGFORGE_HOME, then $DAGSTER_HOME/.dlgforge.",
            ),
        }

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """Return the storage of these settings."""
        return cls(dsn=config_value.get("dsn", ""), home=config_value.get("home", ""), inst_data=inst_data)


def instance_dsn(instance: DagsterInstance) -> str | None:
    """DSN, in libpq's form, of an instance that stores its runs in Postgres; None for any other instance.

    Raises StoreError when the instance gets in by short-lived tokens: the run state needs a DSN of its own
    then.
    """
    storage = instance.run_storage
    if not isinstance(storage, PostgresRunStorage):
        return None
    if storage._token_provider is not None:
        raise StoreError(
            "the Dagster instance's Postgres is entered with short-lived tokens, which the run state cannot "
            "use; set store.postgres.dsn or DLGFORGE_POSTGRES_DSN"
        )
    return libpq_dsn(storage.postgres_url)


def sqlalchemy_url(dsn: str) -> str:
    """Return the URL with which SQLAlchemy reaches a DSN, by psycopg2: dagster-postgres needs that driver."""
    values = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value}
    user, password, database = (values.pop(key, None) for key in ("user", "password", "dbname"))
    host, port = values.get("host", ""), values.get("port", "")
    single = bool(host) and not host.startswith("/") and "," not in host + port
    if single:
        values = {key: value for key, value in values.items() if key not in ("host", "port")}
    elif host and "," not in host and not port:
        # A socket's folder or several hosts go as parameters, which libpq reads as it is used to; but without
        # a port SQLAlchemy looks for one behind a colon.
        values["port"] = "5432"
    url = URL.create(
        "postgresql+psycopg2",
        username=user,
        password=password,
        host=host if single else None,
        port=int(port) if single and port else None,
        database=database,
        query=values,
    )
    return url.render_as_string(hide_password=False)


def libpq_dsn(url: str) -> str:
    """Return the DSN, in libpq's form, of an SQLAlchemy URL of Postgres.

    Raises StoreError when it is malformed.
    """
    parsed = make_url(url)
    values = {
        key: value if isinstance(value, str) else ",".join(value) for key, value in parsed.query.items()
    }
    # By hand: SQLAlchemy leaves a space as it is in a password and writes "+" for it in a parameter.
    user = quote(parsed.username or "", safe="")
    password = ":" + quote(str(parsed.password), safe="") if parsed.password else ""
    host = parsed.host or ""
    address = (f"[{host}]" if ":" in host else quote(host, safe=",")) + (
        f":{parsed.port}" if parsed.port else ""
    )
    dsn = f"postgresql://{user}{password}@{address}/{quote(parsed.database or '', safe='')}"
    if values:
        dsn += "?" + urlencode(values, safe="/", quote_via=quote)
    return check_dsn(dsn, "the DSN of the Dagster instance's storage")


def _configured_home(home: str) -> Path:
    return Path(os.environ.get("DAGSTER_HOME") or ".", os.path.expanduser(home)).absolute()


def _make_log_folder() -> None:
    """Make the folder of Dagster's local logs before Dagster does, so that its owner alone can read them."""
    if home := os.environ.get("DAGSTER_HOME"):
        with contextlib.suppress(OSError):  # it is there, or cannot be made: Dagster tells of that
            os.mkdir(os.path.join(home, "storage"), 0o700)


def _fail_early(dsn: str) -> None:
    """Raise what waiting cannot heal, a wrong password say; Dagster would try it over and over."""
    try:
        ping_blocking(dsn, _PING_S)
    except PingError as error:
        if not error.transient:
            raise
