"""Pushing a dataset folder to a Hugging Face hub: one commit, and none where nothing has changed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_any,
    stop_when_event_set,
    wait_random_exponential,
)

from dlgforge_core.common.hub_transport import transport_errors
from dlgforge_core.config.saving import HfPushConfig
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.export.card import CARD_NAME
from dlgforge_core.export.stats import STATS_NAME
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.export.writer import OURS

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ATTEMPTS = 5
MAX_WAIT_S = 20.0
_PASSING = frozenset((408, 429, 500, 502, 503, 504))
_DATASET = "dataset"

T = TypeVar("T")


class HubError(DlgforgeError):
    """The dataset could not be pushed; the message says what would be right."""


@dataclass(frozen=True, slots=True)
class PushedDataset:
    """Where a dataset is now. `changed` is false when the hub had just these files already."""

    repo_id: str
    revision: str
    url: str
    commit_url: str
    commit: str
    n_files: int
    changed: bool


def hub_token(push: HfPushConfig, environment: Mapping[str, str] = os.environ) -> str:
    """Return the hub's token, from the variable that `push` names. Raises HubError when it is not set."""
    token = environment.get(push.token_env, "").strip()
    if not token:
        raise HubError(
            f"there is no token for the hub: set the environment variable {push.token_env} "
            "(saving.hf_push.token_env) to a token that may write to datasets"
        )
    return token


def push_dataset(folder: Path, push: HfPushConfig, token: str) -> PushedDataset:
    """Make the dataset repository hold what `folder` holds, in one commit on the branch `push.revision`.

    Repository and branch are created where they are missing. Only the dataset's own files are pushed; those
    of formats and splits that it no longer has are deleted, other files in the repository stay. What the hub
    cannot do for the moment is tried again. Raises HubError, without the token in it, also when the dataset
    is empty or the push takes longer than `push.timeout_s`, and DatasetError when the folder holds no whole
    dataset.
    """
    if not push.repo_id:
        raise HubError("saving.hf_push.repo_id is empty; name a dataset repository, for example owner/name")
    n_dialogues = max(verify_dataset(folder).values())
    if not n_dialogues:
        raise HubError(
            f"the dataset in {folder} holds no dialogue, and an empty one is never pushed over what the "
            "hub has: write it again, with filters that leave something"
        )
    message = push.commit_message or f"{n_dialogues} dialogues"
    return _within(push.timeout_s, lambda stop: _push(folder, push, token, message, stop))


def _within(seconds: float, work: Callable[[threading.Event], T]) -> T:
    """Return what `work` gives. Raises what it raises, and HubError when it takes longer.

    The client has no time-out for all of a call, and a server that sends a byte now and then is never silent:
    the work is in a thread of its own, which is left to itself then. `work` is told to stop by the event.
    """
    stop, done = threading.Event(), threading.Event()
    results, errors = list[T](), list[BaseException]()

    def run() -> None:
        try:
            results.append(work(stop))
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=run, name="hub-push", daemon=True).start()
    if not done.wait(seconds):
        stop.set()
        raise HubError(
            f"the push to the hub was not done within {seconds:g} s (saving.hf_push.timeout_s); whether the "
            "commit was made, the hub can say: pushing again makes none where nothing has changed"
        )
    if errors:
        raise errors[0]
    return results[0]


def _push(folder: Path, push: HfPushConfig, token: str, message: str, stop: threading.Event) -> PushedDataset:
    from huggingface_hub import HfApi  # here and not above: half a second of import

    api = HfApi(endpoint=push.endpoint.rstrip("/") or None, token=token, library_name="dlgforge")
    hub = _Hub(api, push, token, stop)
    repo_id = hub.ask(
        lambda: api.create_repo(push.repo_id, private=push.private, repo_type=_DATASET, exist_ok=True).repo_id
    )
    if push.revision != "main":
        hub.ask(lambda: api.create_branch(repo_id, branch=push.revision, repo_type=_DATASET, exist_ok=True))
    return hub.commit(repo_id, dataset_files(folder), message)


def dataset_files(folder: Path) -> dict[str, Path]:
    """Return the dataset's own files in `folder`, by their path in it: no locks, no temporary files."""
    patterns = (CARD_NAME, STATS_NAME, *OURS)
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {path.relative_to(folder).as_posix(): path for path in sorted(found)}


class _Hub:
    def __init__(self, api: HfApi, push: HfPushConfig, token: str, stop: threading.Event) -> None:
        self._api, self._push, self._token, self._stop = api, push, token, stop

    def commit(self, repo_id: str, files: Mapping[str, Path], message: str) -> PushedDataset:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        api, revision = self._api, self._push.revision
        before = self.ask(lambda: api.repo_info(repo_id, repo_type=_DATASET, revision=revision))
        if self._push.private and before.private is False:
            raise HubError(
                f"{repo_id} is a public dataset, and saving.hf_push.private is true: make it private on the "
                "hub, push to another repo_id, or set private to false"
            )
        there = self.ask(lambda: api.list_repo_files(repo_id, repo_type=_DATASET, revision=revision))
        gone = [name for name in there if name not in files and any(fnmatchcase(name, p) for p in OURS)]

        def send() -> Any:
            # Made anew for every attempt: the operations remember what became of them.
            operations: list[Any] = [
                *(CommitOperationDelete(path_in_repo=name) for name in gone),
                *(CommitOperationAdd(name, path) for name, path in files.items()),
            ]
            return api.create_commit(
                repo_id, operations, commit_message=message, repo_type=_DATASET, revision=revision
            )

        made = self.ask(send)
        return PushedDataset(
            repo_id=repo_id,
            revision=revision,
            url=f"{api.endpoint}/datasets/{repo_id}",
            commit_url=str(made.commit_url),
            commit=str(made.oid),
            n_files=len(files),
            changed=made.oid != before.sha,
        )

    def ask(self, call: Callable[[], T]) -> T:
        """Return what `call` gives; again when the hub is away for the moment. Raises HubError."""
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RevisionNotFoundError

        away = transport_errors()
        failures: tuple[type[Exception], ...] = (*away, OSError, RuntimeError, ValueError)

        def passing(error: BaseException) -> bool:
            if isinstance(error, HfHubHTTPError):
                return error.response.status_code in _PASSING
            return isinstance(error, away)

        if self._stop.is_set():
            raise HubError("the push was given up")
        attempts = Retrying(
            retry=retry_if_exception(passing),
            stop=stop_any(stop_after_attempt(ATTEMPTS), stop_when_event_set(self._stop)),
            wait=wait_random_exponential(multiplier=0.5, max=MAX_WAIT_S),
            sleep=sleep_using_event(self._stop),
            reraise=True,
        )
        # Never chained: the libraries' errors carry the request, and the token is in its headers.
        try:
            return attempts(call)
        except RevisionNotFoundError:
            problem = f"there is no branch {self._push.revision!r} in the dataset {self._push.repo_id}"
        except HfHubHTTPError as error:
            problem = self._refused(error.response.status_code, error.server_message or str(error))
        except HFValidationError as error:
            problem = f"repo_id = {self._push.repo_id!r}: {error}"
        except failures as error:
            problem = f"the hub at {self._api.endpoint} cannot be used: {type(error).__name__}: {error}"
        raise HubError(problem.replace(self._token, "[token]"))

    def _refused(self, status: int, answer: str) -> str:
        where, repo_id, variable = self._api.endpoint, self._push.repo_id, self._push.token_env
        hints = {
            401: f"the token in {variable} is not valid there; make a new one that may write to datasets",
            403: f"the token in {variable} may not write to {repo_id}; give it write access there",
            404: f"there is no dataset {repo_id}, and it could not be created: is the owner right, and may "
            f"the token in {variable} see it?",
        }
        hint = hints.get(status) or ("try again later" if status in _PASSING else "see what it says")
        return f"the hub at {where} refused the push ({status}): {hint}. Its answer: {answer.strip()[:500]}"
