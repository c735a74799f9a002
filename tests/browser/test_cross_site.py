"""Pages of other origins, open in the browser of somebody whose `make dev` runs: they change nothing."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.end_to_end.job import Project
from tests.support.dagster_dev import DagsterDev, dagster_dev

pytestmark = pytest.mark.timeout(600)

MUTATION = """mutation { addDynamicPartition(
    repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "dlgforge"},
    partitionsDefName: "seed_batches", partitionKey: "%s") { __typename } }"""
OTHER_NAME = "rebound.example"
"""A name that conftest has the browser resolve to this machine, as an attacker's DNS server would."""
ATTACK = """<!doctype html><title>a page</title>
<img src="%(get)s"><script src="%(get)s"></script><link rel="stylesheet" href="%(get)s">
<iframe name="sink"></iframe><iframe id="framed" src="%(url)s/"></iframe>
<form id="get" action="%(url)s/graphql" target="sink"><input name="query" value='%(mutation)s'></form>
<form id="post" action="%(get)s" method="post" target="sink"></form>
<form id="text" action="%(url)s/graphql" method="post" enctype="text/plain" target="sink">
<input name='%(json_start)s' value='"}'></form>
<script>
const body = %(body)s, seen = {};
const attempt = async (name, act) => { try { seen[name] = await act() } catch (e) { seen[name] = "error" } };
const send = (options) => async () => {
  const answer = await fetch("%(url)s/graphql", {method: "POST", body, ...options});
  return answer.type === "opaque" ? "opaque" : await answer.text();
};
const socket = () => new Promise((done) => {
  const ws = new WebSocket("%(url)s/graphql".replace("http", "ws"), "graphql-ws");
  ws.onopen = () => {
    ws.send(JSON.stringify({type: "connection_init"}));
    ws.send(JSON.stringify({type: "start", id: "1", payload: JSON.parse(body)}));
    setTimeout(() => done("open"), 2000);
  };
  ws.onclose = () => done("closed");
});
(async () => {
  document.getElementById("get").submit();
  await new Promise((done) => setTimeout(done, 500));
  document.getElementById("post").submit();
  await new Promise((done) => setTimeout(done, 500));
  document.getElementById("text").submit();
  await attempt("plain", send({mode: "no-cors"}));
  const disguise = {"Content-Type": "text/plain; application/json"};
  await attempt("disguised", send({mode: "no-cors", headers: disguise}));
  await attempt("json", send({headers: {"Content-Type": "application/json"}}));
  await attempt("cookies", send({mode: "no-cors", credentials: "include"}));
  navigator.sendBeacon("%(url)s/graphql", new Blob([body], {type: "text/plain"}));
  await attempt("socket", socket);
  window.seen = seen;
  document.title = "done";
})();
</script>"""


@contextmanager
def attacker(url: str) -> Iterator[int]:
    """Yield a web server whose page attacks the UI at `url`; gives its port."""
    mutation = MUTATION % "planted"
    page = ATTACK % {
        "url": url,
        "mutation": mutation,
        "get": f"{url}/graphql?query={quote(mutation)}",
        "body": json.dumps(json.dumps({"query": mutation})),
        "json_start": json.dumps({"query": mutation})[:-2].replace("'", "&#39;") + ", ",
    }

    class Evil(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def test_no_page_of_another_origin_changes_anything_and_the_ui_works(tmp_path: Path, page: Page) -> None:
    with dagster_dev(Project(tmp_path)) as dev, attacker(dev.url) as port:
        # Another site, and another origin of the same site.
        for host in ("localhost", "127.0.0.1", OTHER_NAME):
            page.goto(f"http://{host}:{port}/")
            expect(page).to_have_title("done")
            reported = page.evaluate("window.seen")
            assert reported == {
                "plain": "opaque",
                "disguised": "opaque",
                "json": "error",
                "cookies": "opaque",
                "socket": "closed",
            }
            assert "planted" not in dev.partitions("dialogues", "seed_batch")
        # The page's own name leads to the UI now (DNS rebinding): of the same origin, it is told nothing.
        answer = page.goto(f"http://{OTHER_NAME}:{dev.port}/graphql?query={{version}}")
        assert answer is not None
        assert (answer.status, "version" in answer.text()) == (403, False)
        works(page, dev)


def works(page: Page, dev: DagsterDev) -> None:
    """Do all that in the UI itself, which may, by GraphQL and by its websocket."""
    for host in ("127.0.0.1", "localhost"):
        page.goto(f"http://{host}:{dev.port}/locations/dlgforge/asset-groups/dlgforge")
        expect(page.get_by_text("dialogue_dataset").first).to_be_visible()
        reported = page.evaluate(
            """async (query) => (await fetch("/graphql", {method: "POST", body: JSON.stringify({query}),
               headers: {"Content-Type": "application/json"}})).status""",
            MUTATION % f"by-{host}",
        )
        assert reported == 200
        opened = page.evaluate(
            """() => new Promise((done) => {
                 const ws = new WebSocket(`ws://${location.host}/graphql`, "graphql-ws");
                 ws.onopen = () => done(true); ws.onclose = () => done(false); })"""
        )
        assert opened
    assert {"by-127.0.0.1", "by-localhost"} <= set(dev.partitions("dialogues", "seed_batch"))
