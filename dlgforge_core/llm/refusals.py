"""Whose fault an answer with a status other than 200 is, told from what servers of many makes say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from dlgforge_core.llm import server_errors, tool_calls
from dlgforge_core.llm.server_errors import ErrorAnswer
from dlgforge_core.llm.stats import FailureKind
from dlgforge_core.llm.vocabulary import STATUSES, Meaning


class Blame(Enum):
    """What an error is about, and so what to do next."""

    ENDPOINT = auto()  # it failed: try again, elsewhere if possible
    OVERLOAD = auto()  # too many calls: slow down
    SETUP = auto()  # key, account or address: take the endpoint out
    MODEL = auto()  # the endpoint does not serve it
    REQUEST = auto()  # asking the same again cannot help
    TOOL_CALL = auto()  # the model's tool call could not be read: ask without tools


# Statuses with a meaning of their own, whatever the words beside them.
_NO_FILTERS = frozenset({401, 402, 404, 405, 407, 408, 409, 425, 429})


@dataclass(frozen=True, slots=True)
class Refusal:
    """The verdict on an error: whom to blame, how it is counted, and the words for it."""

    blame: Blame
    kind: FailureKind
    reason: str


def judge(error: ErrorAnswer, sent: bytes, *, pause_s: float | None, has_key: bool, location: str) -> Refusal:
    """Return the verdict on `error`, the answer to the request `sent`.

    `pause_s` is what the server asked us to wait, if it did; `location` is where it redirects to.
    """
    own = error.own_meaning
    # The user knows the server better than its status does.
    status, reason = STATUSES[own] if own is not None else error.status, str(error)
    if server_errors.is_context_overflow(error) and status in (400, 413, 422, 429, 500):
        return Refusal(Blame.REQUEST, FailureKind.BAD_REQUEST, reason)
    if server_errors.is_content_filter(error) and 400 <= status <= 500 and status not in _NO_FILTERS:
        return Refusal(Blame.REQUEST, FailureKind.BAD_REQUEST, reason)
    # Ordinary limits speak of quotas and billing as well: only a code, and no time to try again, is final.
    if status == 429 and pause_s is None and Meaning.OUT_OF_CREDIT in error.meanings_of_codes():
        return Refusal(Blame.SETUP, FailureKind.KEY_REFUSED, f"out of quota: {reason}")
    if status in (429, 529) or (status == 503 and pause_s is not None) or _is_limit_by_code(error):
        return Refusal(Blame.OVERLOAD, FailureKind.RATE_LIMITED, reason)
    if server_errors.is_system_refusal(error, sent):
        return Refusal(Blame.REQUEST, FailureKind.BAD_REQUEST, reason)
    if tool_calls.sent_with_tools(sent):
        if tool_calls.is_failure(status, error.text):
            return Refusal(Blame.TOOL_CALL, FailureKind.TOOL_CALL, reason)
        if tool_calls.is_refusal(status, error.text):
            return Refusal(Blame.REQUEST, FailureKind.BAD_REQUEST, reason)
    if status >= 500 or status in (408, 409, 424, 425, 499):
        return Refusal(Blame.ENDPOINT, FailureKind.SERVER_ERROR, reason)
    return _of_setup(error, status, reason, has_key, location)


def _is_limit_by_code(error: ErrorAnswer) -> bool:
    """Whether a code says what the status does not: AWS' throttling is a 400, Google's may be a 403."""
    if error.status in (401, 402, 404) or error.status >= 501:
        return False
    return next(error.meanings_of_codes(), None) is Meaning.RATE_LIMIT


def _of_setup(error: ErrorAnswer, status: int, reason: str, has_key: bool, location: str) -> Refusal:
    if status == 402 or error.meaning is Meaning.OUT_OF_CREDIT:
        return Refusal(Blame.SETUP, FailureKind.KEY_REFUSED, f"the account cannot pay for it ({reason})")
    if status == 407:
        return Refusal(Blame.SETUP, FailureKind.KEY_REFUSED, f"a proxy on the way wants a login ({reason})")
    if status in (401, 403) or (status in (400, 412) and error.meaning is Meaning.KEY):
        hint = "the key was refused" if has_key else "no key is set, and one is wanted"
        return Refusal(Blame.SETUP, FailureKind.KEY_REFUSED, f"{hint} ({reason})")
    if (status == 404 and server_errors.is_unknown_model(error)) or (
        status == 400 and Meaning.UNKNOWN_MODEL in error.meanings_of_codes()
    ):
        return Refusal(Blame.MODEL, FailureKind.UNKNOWN_MODEL, reason)
    if status in (404, 405) or 300 <= status < 400:
        hint = f", to {server_errors.excerpt(location)}" if location else ""
        detail = f"{reason}{hint}; is base_url right? It ends in /v1 as a rule"
        return Refusal(Blame.SETUP, FailureKind.WRONG_ADDRESS, detail)
    return Refusal(Blame.REQUEST, FailureKind.BAD_REQUEST, reason)
