"""Models on a hub: fetched once, where a broken download goes on, and kept with revision and checksum."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dlgforge_core.common.file_lock import holders, wait_for_lock
from dlgforge_core.common.hub_transport import transport_errors
from dlgforge_core.common.secrets import redact
from dlgforge_core.config.hub_file import HubFile
from dlgforge_core.database.embedded import dlgforge_home
from dlgforge_core.errors import BackendError

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

TOKEN_ENV = "HF_TOKEN"
ENDPOINT_ENV = "HF_ENDPOINT"
ENDPOINT = "https://huggingface.co"
LOCK_TIMEOUT_S = 3600.0
"""For which another process may fetch the same file."""
_METADATA_TIMEOUT_S = 10.0
_SHA256 = re.compile(r"[0-9a-f]{64}")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What is kept beside a model that was fetched."""

    address: str
    commit: str
    sha256: str
    bytes: int


def folder_of(file: HubFile, env: Mapping[str, str] = os.environ) -> Path:
    """Return where a file of the hub is kept on this machine."""
    revision = file.revision.replace("/", "--")
    return dlgforge_home(env) / "models" / file.repo_id.replace("/", "--") / revision


def kept_model(file: HubFile, env: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file as it was fetched before, without asking the hub; None when it is not whole."""
    path = _path_of(file, env)
    try:
        fetched = Fetched(**json.loads(_record(path).read_text("utf-8")))
        return path if fetched.address == file.address and path.stat().st_size == fetched.bytes else None
    except (OSError, ValueError, TypeError):
        return None


def fetch_model(file: HubFile, progress: Progress, env: Mapping[str, str] = os.environ) -> Path:
    """Return the file on this machine, fetched from the hub unless it is there.

    A download that broke off goes on where it was. What comes is held against the hub's checksum. A branch
    stays at the commit that was fetched first. The token in HF_TOKEN is sent, where it is set. Raises
    BackendError with cause and remedy, without the token.
    """
    if path := kept_model(file, env):
        return path
    path = _path_of(file, env)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("a+b") as lock:
            if not wait_for_lock(lock.fileno(), LOCK_TIMEOUT_S):
                raise BackendError(
                    f"{file.address} is being fetched by {holders(lock.fileno())}; end it first"
                )
            return kept_model(file, env) or _fetch(file, path, progress, env)
    except OSError as error:
        raise BackendError(
            f"{file.address} cannot be kept in {path.parent}: {error.strerror or error}; is the disk full, "
            "or the folder not ours?"
        ) from None


def _path_of(file: HubFile, env: Mapping[str, str]) -> Path:
    """Return the file's path, with its folders: several of a repository's files may have the same name."""
    return folder_of(file, env) / file.path


def remote_size(file: HubFile, env: Mapping[str, str] = os.environ) -> int:
    """Return the size of a file on the hub, in bytes. Raises BackendError as `fetch_model` does."""
    return _asked(file, env).size or 0


def _fetch(file: HubFile, path: Path, progress: Progress, env: Mapping[str, str]) -> Path:
    from huggingface_hub.file_download import http_get

    found = _asked(file, env)
    size, commit = found.size or 0, found.commit_hash or ""
    # Of this very content: what is left of another one's download is not gone on with.
    content_id = re.sub(r"\W", "", found.etag or "unknown")[:16]
    part = path.with_name(f"{path.name}.{content_id}.part")
    there = part.stat().st_size if part.exists() else 0
    if there > size:
        part.unlink()
        there = 0
    _check_room(file, path.parent, size - there)
    goes_on = f", {there:,} of them are there" if there else ""
    progress(f"fetching {file.address}: {size:,} bytes{goes_on}, into {path.parent}")
    token, headers = env.get(TOKEN_ENV, ""), dict[str, Any]()
    # Elsewhere, in a bucket, the address is the permission.
    if token and urlsplit(found.location).netloc == urlsplit(_url(file, env)).netloc:
        headers["authorization"] = f"Bearer {token}"
    with part.open("ab") as out:
        _with_errors(
            lambda: http_get(
                found.location, out, resume_size=there, headers=headers, expected_size=size or None
            ),
            file,
            env,
        )
    sha256 = _digest(part)
    if _SHA256.fullmatch(found.etag or "") and sha256 != found.etag:
        part.unlink()
        raise BackendError(
            f"{file.address}: what came has SHA-256 {sha256}, and the hub says {found.etag}; it was thrown "
            "away, run again to fetch it anew"
        )
    fetched = Fetched(file.address, commit, sha256, part.stat().st_size)
    # First the record: where it cannot be written, the whole download is gone on with.
    _record(path).write_text(json.dumps(asdict(fetched), indent=1) + "\n", "utf-8")
    part.replace(path)
    for other in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        other.unlink()
    progress(f"{file.address} is there: commit {commit[:12] or 'unknown'}, SHA-256 {sha256}")
    return path


def _check_room(file: HubFile, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BackendError(
            f"{file.address} cannot be kept in {folder}: it needs {needed:,} more bytes, and {free:,} are "
            "free; make room, or set DLGFORGE_HOME to a folder elsewhere"
        )


def _asked(file: HubFile, env: Mapping[str, str]) -> HfFileMetadata:
    from huggingface_hub import get_hf_file_metadata

    def ask() -> HfFileMetadata:
        return get_hf_file_metadata(
            _url(file, env), token=env.get(TOKEN_ENV) or False, timeout=_METADATA_TIMEOUT_S
        )

    found: HfFileMetadata = _with_errors(ask, file, env)
    return found


def _url(file: HubFile, env: Mapping[str, str]) -> str:
    from huggingface_hub import hf_hub_url

    endpoint = (env.get(ENDPOINT_ENV) or ENDPOINT).rstrip("/")
    return hf_hub_url(file.repo_id, file.path, revision=file.revision, endpoint=endpoint)


def _with_errors(call: Callable[[], Any], file: HubFile, env: Mapping[str, str]) -> Any:
    """Return what `call` gives; what the hub's client raises is raised as a BackendError."""
    from huggingface_hub.errors import HfHubHTTPError

    failures: tuple[type[Exception], ...] = (*transport_errors(), ValueError, RuntimeError)
    # Never chained: the libraries' errors carry the request, and the token is in its headers.
    try:
        return call()
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = _HINTS.get(status, "try again later" if status >= 500 else "see what it says")
        problem = f"the hub refused it ({status}): {hint}. Its answer: {error.server_message or error}"
    except failures as error:
        problem = f"{type(error).__name__}: {error}; run again to go on where it was"
    except OSError as error:
        if error.errno is not None:
            raise  # the disk's
        problem = f"{type(error).__name__}: {error}; run again to go on where it was"
    raise BackendError(redact(f"{file.address} cannot be fetched: {problem}", env.get(TOKEN_ENV, "")))


_HINTS = {
    401: f"there is no such model, or it needs a token: set {TOKEN_ENV} to one that may read it",
    403: f"the model is gated: ask for access on its page, and set {TOKEN_ENV}",
    404: "there is no such file, repository or revision; see the files on the model's page",
}


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
