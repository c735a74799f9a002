"""The guard in front of Dagster's webserver: what pages of other origins send is not let in."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from dlgforge_core.common.web_guard import UI_HOSTS
from dlgforge_dagster.webserver.dev import guarded_command
from dlgforge_dagster.webserver.guard import RequestGuard

OURS = "http://127.0.0.1:3000"
MUTATION = "mutation { launchRun { runId } }"
JSON = {"content-type": "application/json"}


async def _app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    """Answers everything, as a server without a guard does."""
    if scope["type"] == "websocket":
        websocket = WebSocket(scope, receive, send)
        await websocket.accept()
        await websocket.send_text("open")
        await websocket.close()
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"let in"})


def client(hosts: str = "", base_url: str = OURS) -> TestClient:
    return TestClient(RequestGuard(_app, {UI_HOSTS: hosts}), base_url=base_url)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="a program"),
        pytest.param({"origin": OURS}, id="the UI"),
        pytest.param({"origin": OURS, "sec-fetch-site": "same-origin"}, id="the UI in a new browser"),
        pytest.param({"content-type": "application/json; charset=utf-8"}, id="with a charset"),
    ],
)
def test_the_ui_and_programs_of_this_machine_are_let_in(headers: dict[str, str]) -> None:
    for url in (OURS, "http://localhost:3000", "http://[::1]:3000"):
        sent = {**JSON, **headers}
        if "origin" in sent:
            sent["origin"] = url
        answer = client(base_url=url).post("/graphql", json={"query": MUTATION}, headers=sent)
        assert (answer.status_code, answer.text) == (200, "let in")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:8888"}, 403),  # another server of this machine, a notebook for instance
        ({"origin": "http://127.0.0.1:3000.evil.example"}, 403),
        ({"origin": "http://127.0.0.1:3000@evil.example"}, 403),
        ({"origin": "file://"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": OURS, "sec-fetch-site": "cross-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": "text/plain; application/json"}, 415),  # Dagster takes it for JSON
        ({"content-type": ""}, 415),
    ],
)
def test_a_mutation_that_another_page_sends_is_refused(headers: dict[str, str], status: int) -> None:
    answer = client().post("/graphql", content=b"{}", headers={**JSON, **headers})
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("path", ["/graphql", "/graphql/", "/gr%61phql", "/prefix/graphql"])
@pytest.mark.parametrize(
    "query",
    [
        MUTATION,
        "subscription { pipelineRunLogs { x } }",
        "query A { version } mutation B { launchRun { runId } }",
        "# a comment\nmutation{launchRun{runId}}",
    ],
)
def test_mutations_by_get_are_refused(path: str, query: str) -> None:
    answer = client().get(path, params={"query": query, "operationName": "B"})
    assert answer.status_code == 405


def test_of_two_queries_in_the_address_each_is_looked_at() -> None:
    for query in ("query={version}&query=mutation{x}", "query=mutation{x}&query={version}"):
        assert client().get(f"/graphql?{query}").status_code == 405


def test_queries_by_get_are_for_programs_and_our_own_pages() -> None:
    assert client().get("/graphql", params={"query": "{ version }"}).status_code == 200
    image = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    assert client().get("/graphql", params={"query": "{ version }"}, headers=image).status_code == 403
    assert client().get("/graphql", params={"query": "{" * 5000}).status_code == 400
    # Links to pages of the UI from elsewhere are fine.
    assert client().get("/runs", headers={"sec-fetch-site": "cross-site"}).status_code == 200


def test_what_changes_something_elsewhere_is_guarded_too() -> None:
    path = "/report_asset_materialization/dialogues?metadata=x"
    assert client().post(path).status_code == 200
    assert client().post(path, json={}).status_code == 200
    assert client().post(path, headers={"origin": "https://evil.example"}).status_code == 403
    assert client().post(path, data={"metadata": "x"}).status_code == 415


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:3000", "127.0.0.1.evil.example", "localhost.evil.example:3000", ""),
        *("[::1].evil.example", "[::1]evil:3000", "evil[::1]", "127.0.0.1@evil.example"),
        *("evil.example#localhost", "http://127.0.0.1", "localhost:99999"),
    ],
)
def test_a_host_that_is_not_ours_is_refused_for_reading_too(host: str) -> None:
    for path in ("/", "/graphql?query={version}", "/logs/x/y.out", "/download_debug/x"):
        assert client().get(path, headers={"host": host}).status_code in (400, 403)


def test_a_host_that_the_operator_names_is_answered() -> None:
    proxied = client("dagster.lab.example, other.example:8443", "https://dagster.lab.example")
    sent = {**JSON, "origin": "https://dagster.lab.example"}
    assert proxied.post("/graphql", json={}, headers=sent).status_code == 200
    # A proxy that puts its own name for us into Host.
    behind = client("dagster.lab.example")
    assert behind.post("/graphql", json={}, headers=sent).status_code == 200
    assert client("other.example:8443", "https://other.example:8443").get("/").status_code == 200
    assert client("other.example:8443", "https://other.example:9999").get("/").status_code == 403


def test_a_header_that_is_there_twice_is_refused() -> None:
    twice = [("content-type", "application/json"), ("origin", OURS), ("origin", "https://evil.example")]
    assert client().post("/graphql", content=b"{}", headers=twice).status_code == 400


@pytest.mark.parametrize(
    ("headers", "opens"),
    [
        ({}, True),
        ({"origin": OURS}, True),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "https://evil.example", "host": "evil.example"}, False),
    ],
)
def test_websockets_are_for_our_own_pages(headers: dict[str, str], opens: bool) -> None:
    sent = {"host": "127.0.0.1:3000", **headers}
    if opens:
        with client().websocket_connect("/graphql", headers=sent) as websocket:
            assert websocket.receive_text() == "open"
    else:
        with pytest.raises(WebSocketDisconnect), client().websocket_connect("/graphql", headers=sent):
            pass


def test_no_other_page_shows_the_ui_in_a_frame() -> None:
    headers = client().get("/").headers
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert "frame-ancestors 'self'" in headers["content-security-policy"]


def test_of_dagster_dev_the_webserver_alone_is_replaced_and_nothing_unknown_starts() -> None:
    python = sys.executable
    webserver = guarded_command([python, "-m", "dagster_webserver", "--port", "3000"])
    assert webserver == [python, "-m", "dlgforge_dagster.webserver", "--port", "3000"]
    daemon = [python, "-m", "dagster._daemon", "run"]
    assert guarded_command(daemon) == daemon
    for unknown in ([python, "-m", "dagster_ui", "x"], ["dagster-webserver", "-p", "1", "x"]):
        with pytest.raises(RuntimeError, match="does not know"):
            guarded_command(unknown)
