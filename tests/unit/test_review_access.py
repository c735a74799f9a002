"""Who is let in to the review page: by the token alone, and never from a page of another origin."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from starlette.testclient import TestClient

from dlgforge_core.database.database import Database
from dlgforge_core.review.access import Keys
from dlgforge_core.review.pages import review_app
from dlgforge_core.review.sessions import ReviewState
from dlgforge_core.store.run_store import RunStore
from tests.support.review import conversation, put_dialogues

OURS = "http://127.0.0.1:8321"
PATHS = ("/", "/d/d0", "/static/review.js", "/agreement", "/nowhere")
KEYS = Keys()


@pytest.fixture(scope="module")
def state(server_dsn: str) -> Iterator[ReviewState]:
    """Yield what the pages draw on: a database with one dialogue, for all tests."""
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE review_access")
    store = RunStore(Database(server_dsn.replace("/dlgforge?", "/review_access?")))
    store.migrate()
    put_dialogues(store, [conversation(0, "A secret question?", "A secret answer.")])
    made = ReviewState(store.database)
    yield made
    made.close()


@pytest.fixture
def client(state: ReviewState) -> TestClient:
    """Return a browser without any cookie."""
    return TestClient(review_app(state, KEYS, {}), base_url=OURS, follow_redirects=False)


def let_in(client: TestClient) -> None:
    answer = client.get("/", params={"token": KEYS.token})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert KEYS.token not in cookie


def marking(client: TestClient, verdict: str = "good", **headers: str) -> int:
    client.cookies.set("dlgforge_reviewer", "Ada")
    form = {"form_token": KEYS.form, "verdict": verdict}
    return client.post("/d/d0/mark", data=form, headers=headers).status_code


def test_without_the_token_nothing_is_readable(client: TestClient) -> None:
    attempts = [{}, {"token": "wrong"}, {"token": ""}, {"token": KEYS.session}]
    for path in PATHS:
        for params in attempts:
            answer = client.get(path, params=params)
            assert answer.status_code == 403
            assert "secret" not in answer.text
        client.cookies.set(KEYS.cookie, "wrong")
    assert marking(client) == 403


def test_the_token_in_the_address_becomes_a_cookie(client: TestClient) -> None:
    answer = client.get("/d/d0", params={"language": "en", "token": KEYS.token})
    assert answer.headers["location"] == "/d/d0?language=en"
    let_in(client)
    assert "A secret answer." in client.get("/d/d0").text
    assert client.get("/static/review.css").status_code == 200
    assert client.get("/static/../pages.py").status_code in (403, 404)
    assert client.get("/nowhere").status_code == 404
    for address in ("/?after=%00", "/?q=a%00b", "/d/%00"):
        assert client.get(address).status_code == 400, "Postgres has no such text"


def test_cookies_of_other_servers_of_this_machine_lock_nobody_out(client: TestClient) -> None:
    for other in ('theme={"dark": true}', "a=b c", "a@[=1", 'a="b'):
        for ours, status in ((KEYS.session, 200), ("wrong", 403)):
            cookies = {"cookie": f"{other}; {KEYS.cookie}={ours}"}
            assert client.get("/", headers=cookies).status_code == status


def test_an_address_with_the_token_leads_nowhere_else(client: TestClient) -> None:
    answer = client.get("/%2F%2Fevil.example/x", params={"token": KEYS.token})
    assert answer.headers["location"].startswith("/evil.example/x")


def test_every_answer_forbids_scripts_frames_and_caches(client: TestClient) -> None:
    refused = client.get("/")
    let_in(client)
    for answer in (refused, client.get("/"), client.get("/d/d0"), client.get("/static/review.js")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
    text = client.get("/d/d0").text
    assert "<script>" not in text
    assert " style=" not in text
    assert " on" + "click" not in text


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8888"},  # another server of this machine
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_page_of_another_origin_cannot_mark(client: TestClient, headers: dict[str, str]) -> None:
    let_in(client)
    assert marking(client, **headers) == 403
    assert "marked by Ada" not in client.get("/").text
    assert marking(client, origin=OURS) == 303
    assert "marked by Ada" in client.get("/").text
    assert marking(client, "none", origin=OURS) == 303


def test_a_form_without_its_token_does_nothing(client: TestClient) -> None:
    let_in(client)
    client.cookies.set("dlgforge_reviewer", "Ada")
    for path in ("/d/d0/mark", "/d/d0/edit", "/reviewer"):
        for form in ({"verdict": "good"}, {"verdict": "good", "form_token": "wrong"}):
            assert client.post(path, data=form).status_code == 403
    plain = {"content-type": "text/plain"}
    assert (
        client.post("/d/d0/mark", content=f"form_token={KEYS.form}&verdict=good", headers=plain).status_code
        == 415
    )


def test_a_name_that_was_pointed_at_this_machine_is_no_host_of_ours(state: ReviewState) -> None:
    app = review_app(state, KEYS, {"DLGFORGE_UI_HOSTS": "review.lab.example"})
    for host, status in (("rebound.example", 403), ("review.lab.example", 303), ("localhost", 303)):
        client = TestClient(app, base_url=f"http://{host}:8321", follow_redirects=False)
        assert client.get("/", params={"token": KEYS.token}).status_code == status
