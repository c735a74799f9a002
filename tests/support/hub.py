"""A stand-in for the Hugging Face hub's HTTP API on loopback: repositories, branches, LFS, commits.

with hub_server() as hub: push to hub.url with hub.token, then look at hub.files("owner/name").
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]
_ERROR_CODES = {"Repository not found": "RepoNotFound", "Invalid rev id": "RevisionNotFound"}


@dataclass
class Commit:
    """A state of a branch, and what was said of it."""

    id: str
    files: Files
    message: str = "initial commit"


@dataclass
class Repo:
    """A repository of a dataset or a model; each branch's commits, the latest last."""

    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=dict)


@dataclass
class Fault:
    """Answer the next `times` requests whose path matches with a status; 0 hangs up without an answer.

    With `drip_s` an answer without end comes instead, a byte every so many seconds.
    """

    path: str
    status: int
    times: int = 1
    drip_s: float = 0.0


@dataclass
class Hub:
    """What the server keeps. `lfs_suffixes` are stored by LFS; `owners` are who may have repositories."""

    token: str = "hf_standInTokenThatIsLongEnough01"
    owners: tuple[str, ...] = ("lab",)
    lfs_suffixes: tuple[str, ...] = (".parquet",)
    cut_after: int | None = None
    """Of a model's file so many bytes are sent, once, and then the connection is closed."""
    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: Files = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def head(self, repo_id: str, branch: str = "main") -> Commit:
        """Return the latest commit of a branch."""
        return self.repos[repo_id].branches[branch][-1]

    def files(self, repo_id: str, branch: str = "main") -> Files:
        """Return what is in a branch."""
        return self.head(repo_id, branch).files

    def add_model(self, repo_id: str, files: Files, branch: str = "main") -> None:
        """Make a repository of a model with these files."""
        commit = Commit(hashlib.sha1(repr(sorted(files)).encode()).hexdigest(), files)
        self.repos.setdefault(f"models/{repo_id}", Repo(private=True)).branches[branch] = [commit]

    def write_to(self, folder: Path, repo_id: str, branch: str = "main") -> None:
        """Check a branch out."""
        for name, content in self.files(repo_id, branch).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, **more: str) -> None:
        self.status, self.message, self.more = status, message, more


@contextlib.contextmanager
def hub_server(**options: Any) -> Iterator[Hub]:
    """Yield a running stand-in, stopped at the end."""
    hub = Hub(**options)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self._chunks()
            path = unquote(urlsplit(self.path).path)
            try:
                with hub.lock:
                    hub.requests.append(f"{self.command} {path}")
                    status, answer = 200, self._ask(path, body)
            except Refusal as refusal:
                status, answer = refusal.status, {"error": refusal.message, **refusal.more}
            if status == 0:
                self.close_connection = True
                return
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 404 and (code := _ERROR_CODES.get(answer["error"])):
                self.send_header("X-Error-Code", code)
            if status >= 400:
                self.send_header("X-Error-Message", answer["error"])
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PUT = _answer

        def do_GET(self) -> None:
            self._model_file() if "/resolve/" in self.path else self._answer()

        do_HEAD = do_GET

        def _model_file(self) -> None:
            """Answer with a file of a model, or the part of it that is asked for."""
            path = unquote(urlsplit(self.path).path)
            repo_id, _, rest = path.lstrip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            hub.requests.append(f"{self.command} {path} {self.headers.get('Range') or ''}".strip())
            repo = hub.repos.get(f"models/{repo_id}")
            commit = repo.branches[revision][-1] if repo is not None and revision in repo.branches else None
            if self.headers.get("Authorization") != f"Bearer {hub.token}" or commit is None:
                return self._refuse(401, "Repository not found", "RepoNotFound")
            if name not in commit.files:
                return self._refuse(404, "Entry not found", "EntryNotFound")
            content = commit.files[name]
            if self.headers.get("Range") and any(fault.times for fault in hub.faults):
                return self._refuse(500, "not now", "")
            first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if first else 200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit.id)
            self.send_header("Content-Length", str(len(content) - first))
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if self.command == "GET":
                cut, hub.cut_after = hub.cut_after, None
                self.wfile.write(content[first : cut or len(content)])
                self.close_connection = cut is not None
            return None

        def _refuse(self, status: int, message: str, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _chunks(self) -> bytes:
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _ask(self, path: str, body: bytes) -> Any:
            for fault in hub.faults:
                if fault.times and re.search(fault.path, path):
                    fault.times -= 1
                    if fault.drip_s:
                        self._drip(fault.drip_s)
                    raise Refusal(fault.status, "not now")
            if path.startswith("/lfs/"):  # its address is the permission, as with a bucket's
                return _store(hub, path.removeprefix("/lfs/"), body)
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                raise Refusal(401, "Invalid credentials in Authorization header")
            for method, pattern, route in _ROUTES:
                if method == self.command and (found := re.fullmatch(pattern, path)):
                    return route(hub, body, *found.groups())
            raise Refusal(404, f"no route for {self.command} {path}")

        def _drip(self, every_s: float) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            ends = time.monotonic() + 5
            with contextlib.suppress(OSError):
                while time.monotonic() < ends:
                    self.wfile.write(b" ")
                    time.sleep(every_s)
            raise Refusal(0, "hung up")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _store(hub: Hub, oid: str, body: bytes) -> Any:
    if hashlib.sha256(body).hexdigest() != oid:
        raise Refusal(400, "content differs from its oid")
    hub.objects[oid] = body
    return {}


def _create(hub: Hub, body: bytes) -> Any:
    asked = json.loads(body)
    owner = asked.get("organization") or hub.owners[0]
    if owner not in hub.owners:
        raise Refusal(404, "Repository not found")
    repo_id = f"{owner}/{asked['name']}"
    if asked.get("type") != "dataset":
        raise Refusal(400, "only datasets here")
    if repo_id in hub.repos:
        raise Refusal(409, "You already created this dataset repo", url=f"{hub.url}/datasets/{repo_id}")
    first = Commit(_commit_id(hub, {}), {".gitattributes": b"*.parquet filter=lfs\n"})
    hub.repos[repo_id] = Repo(private=asked.get("visibility") == "private", branches={"main": [first]})
    return {"url": f"{hub.url}/datasets/{repo_id}"}


def _repo(hub: Hub, repo_id: str) -> Repo:
    if repo_id not in hub.repos:
        raise Refusal(404, "Repository not found")
    return hub.repos[repo_id]


def _branch(hub: Hub, repo_id: str, revision: str) -> list[Commit]:
    branches = _repo(hub, repo_id).branches
    if revision not in branches:
        raise Refusal(404, "Invalid rev id")
    return branches[revision]


def _create_branch(hub: Hub, body: bytes, repo_id: str, name: str) -> Any:
    branches = _repo(hub, repo_id).branches
    if name in branches:
        raise Refusal(409, "branch exists")
    branches[name] = list(branches["main"])
    return {}


def _info(hub: Hub, body: bytes, repo_id: str, revision: str) -> Any:
    head = _branch(hub, repo_id, revision)[-1]
    return {"_id": "1", "id": repo_id, "sha": head.id, "private": _repo(hub, repo_id).private, "tags": []}


def _tree(hub: Hub, body: bytes, repo_id: str, revision: str) -> Any:
    files = _branch(hub, repo_id, revision)[-1].files
    return [
        {"type": "file", "path": name, "size": len(content), "oid": _git_id(content)}
        for name, content in sorted(files.items())
    ]


def _validate_yaml(hub: Hub, body: bytes) -> Any:
    if not json.loads(body)["content"].startswith("---\n"):
        raise Refusal(400, "no metadata")
    return {"errors": [], "warnings": []}


def _preupload(hub: Hub, body: bytes, repo_id: str, revision: str) -> Any:
    files = _branch(hub, repo_id, revision)[-1].files
    answers = []
    for asked in json.loads(body)["files"]:
        lfs = asked["path"].endswith(hub.lfs_suffixes)
        there = files.get(asked["path"])
        oid = None if there is None else hashlib.sha256(there).hexdigest() if lfs else _git_id(there)
        mode = "lfs" if lfs else "regular"
        answers.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return {"files": answers}


def _lfs_batch(hub: Hub, body: bytes, repo_id: str) -> Any:
    _repo(hub, repo_id)
    objects = []
    for asked in json.loads(body)["objects"]:
        known = asked["oid"] in hub.objects
        actions = {} if known else {"actions": {"upload": {"href": f"{hub.url}/lfs/{asked['oid']}"}}}
        objects.append({"oid": asked["oid"], "size": asked["size"], **actions})
    return {"transfer": "basic", "objects": objects}


def _commit(hub: Hub, body: bytes, repo_id: str, revision: str) -> Any:
    history = _branch(hub, repo_id, revision)
    files, message = dict(history[-1].files), ""
    for line in body.splitlines():
        item = json.loads(line)
        value = item["value"]
        if item["key"] == "header":
            message = value["summary"]
        elif item["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif item["key"] == "lfsFile":
            if value["oid"] not in hub.objects:
                raise Refusal(400, f"{value['path']} was not uploaded")
            files[value["path"]] = hub.objects[value["oid"]]
        elif item["key"] == "deletedFile":
            if files.pop(value["path"], None) is None:
                raise Refusal(400, f"{value['path']} is not there")
        else:
            raise Refusal(400, f"unknown operation {item['key']}")
    made = Commit(_commit_id(hub, files, history[-1].id), files, message)
    history.append(made)
    url = f"{hub.url}/datasets/{repo_id}/commit/{made.id}"
    return {"success": True, "commitOid": made.id, "commitUrl": url}


def _commit_id(hub: Hub, files: Files, parent: str = "") -> str:
    content = json.dumps([parent, len(hub.repos), {name: _git_id(data) for name, data in files.items()}])
    return hashlib.sha1(content.encode()).hexdigest()


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_ID = "([^/]+/[^/]+)"
_ROUTES: list[tuple[str, str, Any]] = [
    ("POST", "/api/repos/create", _create),
    ("POST", "/api/validate-yaml", _validate_yaml),
    ("POST", f"/api/datasets/{_ID}/branch/(.+)", _create_branch),
    ("GET", f"/api/datasets/{_ID}/revision/(.+)", _info),
    ("GET", f"/api/datasets/{_ID}/tree/(.+)", _tree),
    ("POST", f"/api/datasets/{_ID}/preupload/(.+)", _preupload),
    ("POST", f"/datasets/{_ID}.git/info/lfs/objects/batch", _lfs_batch),
    ("POST", f"/api/datasets/{_ID}/commit/(.+)", _commit),
]
