"""DSNs: where they come from, what is wrong with them, and that their passwords stay unseen."""

import asyncio
import socket
import threading
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from dlgforge_core.database.dsn import (
    DsnSource,
    Reach,
    ResolvedDsn,
    check_dsn,
    is_local_only,
    reach,
    redact_dsn,
    resolve_dsn,
)
from dlgforge_core.database.ping import PingError, ping, ping_blocking
from dlgforge_core.errors import StoreError

_A, _B, _C = "postgresql://a@h1/x", "host=h2 user=b", "postgres://c@h3/z"


def test_the_configured_dsn_wins_then_the_environment_then_the_instance(tmp_path: Path) -> None:
    env = {"DLGFORGE_POSTGRES_DSN": _B}
    assert resolve_dsn(SecretStr(_A), env, _C, tmp_path) == ResolvedDsn(_A, DsnSource.CONFIG)
    assert resolve_dsn(SecretStr(""), env, _C, tmp_path) == ResolvedDsn(_B, DsnSource.ENVIRONMENT)
    blank = {"DLGFORGE_POSTGRES_DSN": " "}
    assert resolve_dsn(SecretStr(""), blank, _C, tmp_path) == ResolvedDsn(_C, DsnSource.INSTANCE)


def test_a_malformed_dsn_is_named_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^DLGFORGE_POSTGRES_DSN begins with mysql://"):
        resolve_dsn(SecretStr(""), {"DLGFORGE_POSTGRES_DSN": "mysql://u:p@h/d"}, None, tmp_path)


def test_a_resolved_dsn_does_not_show_it() -> None:
    assert "secret" not in repr(ResolvedDsn("postgresql://u:secret@h/d", DsnSource.CONFIG))


@pytest.mark.parametrize(
    ("dsn", "stated"),
    [
        ("", "is empty"),
        ("dbhost", "neither a URI nor key=value"),
        ("sqlite:///x.db", "begins with sqlite://"),
        ("postgresql://u:hunter%2@h/d", "%25"),
        ("postgresql://u:hunter 2@h/d", "%20"),
        ("postgresql://u:hunter/2@h/d", "%2F"),
        ("postgresql://u:123/hunter2@h/d", "percent-encoded"),
        ("postgresql://u:hunter@2@h/d", "percent-encoded"),
        ("postgresql://u:hunter2@h:99999/d", "from 1 to 65535"),
        ("postgresql://u:hunter2@h:x/d", "from 1 to 65535"),
        ("postgresql://u:hunter2@h/d?colour=red", "not one that Postgres knows"),
        ("postgresql://u:hunter2@h/d?sslmode", 'no "="'),
        ("postgresql://u:hunter2@[::1/d", '"]"'),
        ("host=h password='hunter2", "not closed"),
        ("host=h password=hunter 2", "neither a URI nor key=value"),
        ("host=h hunter2=1", "not one that Postgres knows"),
    ],
)
def test_what_is_wrong_is_reported_without_the_password(dsn: str, stated: str) -> None:
    with pytest.raises(StoreError) as caught:
        check_dsn(dsn)
    assert stated in str(caught.value)
    assert "hunter" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert redact_dsn(dsn) == "<malformed DSN>"


def test_sqlalchemys_form_is_taken() -> None:
    assert check_dsn(" postgresql+psycopg2://u:p@h/d\n") == "postgresql://u:p@h/d"


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:p@h:5433/d?sslmode=require", "postgresql://u:***@h:5433/d"),
        ("host=/run/pg dbname=d", "postgresql:///run/pg/d"),
        ("postgresql://u:p@h1:1,h2:2/d", "postgresql://u:***@h1:1,h2:2/d"),
        ("postgresql://u@[::1]:5/d?password=p", "postgresql://u:***@[::1]:5/d"),
        ("service=mine password=p", "service=mine"),
    ],
)
def test_what_is_shown_of_a_dsn(dsn: str, shown: str) -> None:
    assert redact_dsn(dsn) == shown


# Long enough not to be part of another setting by chance.
_passwords = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=6)


def _leaks(text: str, password: str) -> bool:
    """Whether any piece of four characters of the password is in the text."""
    harmless = "postgresql://someone:***@db.example.net:5432/work<malformed DSN>"
    pieces = {password[start : start + 4] for start in range(len(password) - 3)}
    return any(piece in text and piece not in harmless for piece in pieces)


@given(_passwords)
def test_a_valid_dsn_never_shows_its_password(password: str) -> None:
    uri = f"postgresql://someone:{quote(password, safe='')}@db.example.net:5432/work?application_name=x"
    pairs = make_conninfo(user="someone", password=password, host="db.example.net", dbname="work", port=5432)
    for dsn in (uri, pairs):
        assert conninfo_to_dict(dsn)["password"] == password
        assert redact_dsn(dsn) == "postgresql://someone:***@db.example.net:5432/work"


@given(_passwords.filter(lambda password: "the" not in password))  # a word of the messages themselves
def test_a_dsn_with_an_unencoded_password_does_not_show_it_either(password: str) -> None:
    for dsn in (
        f"postgresql://someone:{password}@db.example.net:5432/work",
        f"host=db.example.net dbname=work user=someone password={password}",
    ):
        shown = redact_dsn(dsn)
        try:
            check_dsn(dsn)
        except StoreError as error:
            message = str(error)
            assert not _leaks(
                message.split(";", maxsplit=1)[0].replace("neither a URI nor key=value pairs", ""), password
            )
        assert not _leaks(shown, password)


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://u@/d?host=/run/pg", Reach.SOCKET),
        ("dbname=d", Reach.SOCKET),
        ("postgresql://localhost/d", Reach.LOOPBACK),
        ("postgresql://127.0.0.9/d", Reach.LOOPBACK),
        ("postgresql://[::1]/d", Reach.LOOPBACK),
        ("host=db.example.net hostaddr=127.0.0.1", Reach.LOOPBACK),
        ("postgresql://10.0.0.1/d", Reach.NETWORK),
        ("postgresql://localhost,db.example.net/d", Reach.NETWORK),
        ("service=mine", Reach.NETWORK),
    ],
)
def test_from_where_a_server_can_be_reached(dsn: str, expected: Reach) -> None:
    assert reach(dsn) is expected
    assert is_local_only(dsn) is (expected is not Reach.NETWORK)


def _refused(dsn: str, timeout_s: float = 5.0) -> PingError:
    with pytest.raises(PingError) as caught:
        ping_blocking(dsn, timeout_s)
    assert "hunter2" not in str(caught.value)
    return caught.value


def test_ping_where_nothing_listens(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound and never listening
        taken.bind(("127.0.0.1", 0))
        error = _refused(f"postgresql://u:hunter2@127.0.0.1:{taken.getsockname()[1]}/d")
    assert "no server listens there" in str(error)
    assert error.transient
    assert "no server listens there" in str(_refused(f"postgresql://u:hunter2@/d?host={tmp_path}"))


def test_ping_of_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = _refused(f"postgresql://u:hunter2@127.0.0.1:{silent.getsockname()[1]}/d", 0.3)
    assert "no answer within 0.3 s" in str(error)


def test_ping_of_a_server_that_ends_as_it_is_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def end() -> None:
            connection, _ = server.accept()
            connection.recv(1024)
            connection.close()

        threading.Thread(target=end, daemon=True).start()
        error = _refused(f"postgresql://u:hunter2@127.0.0.1:{server.getsockname()[1]}/d?sslmode=disable")
    assert "the server ended the connection as it was made" in str(error)
    assert error.transient


def test_ping_of_an_unknown_host() -> None:
    assert "name is unknown" in str(_refused("postgresql://u:hunter2@nowhere.invalid/d", 20.0))


def test_ping_where_an_event_loop_runs_already(tmp_path: Path) -> None:
    async def both() -> None:
        dsn = f"postgresql://u@/d?host={tmp_path}"
        with pytest.raises(PingError):
            ping_blocking(dsn, 5.0)
        with pytest.raises(PingError):
            await ping(dsn, 5.0)

    asyncio.run(both())
