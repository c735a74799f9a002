"""The dialects of all endpoints: what each takes for each model, and how a call finds that out."""

from __future__ import annotations

import asyncio
import logging

from dlgforge_core.llm.calls import Call
from dlgforge_core.llm.dialect import Dialect, ask_for_less

_log = logging.getLogger(__name__)

_TOOLS_HINT = (
    " vLLM takes tools with --enable-auto-tool-choice and --tool-call-parser, which go into "
    "llm.vllm.extra_args where dlgforge starts it."
)


class Dialects:
    """Dialects by endpoint and model; what was learned is told once."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str], Dialect] = {}
        self._logged: dict[tuple[str, str], str] = {}

    def of(self, endpoint: str, model: str) -> Dialect:
        """Return what this endpoint is known to understand for this model."""
        dialect = self._by_key.get((endpoint, model))
        if dialect is None:
            dialect = self._by_key[endpoint, model] = Dialect()
        return dialect

    def has_answered(self, endpoint: str) -> bool:
        """Whether the endpoint has answered any role, for any model."""
        return any(known.answered for (name, _), known in self._by_key.items() if name == endpoint)

    def lessons_of(self, endpoint: str) -> tuple[str, ...]:
        """Return what the endpoint is asked for otherwise than by default."""
        every = (known.lessons() for (name, _), known in self._by_key.items() if name == endpoint)
        return tuple(sorted({lesson for lessons in every for lesson in lessons}))

    def tell(self, endpoint: str, model: str, reason: str) -> None:
        """Warn of what an endpoint is asked for otherwise from now on, once for each lesson."""
        dialect = self.of(endpoint, model)
        lessons = "; ".join(dialect.lessons())
        if self._logged.get((endpoint, model), "") == lessons:
            return
        self._logged[endpoint, model] = lessons
        _log.warning(
            "endpoint %s does not take all that it was sent for the model %s (%s). From now on it is asked: "
            "%s. A parameter that is null in llm.agents.<role> is not sent in the first place.%s",
            endpoint,
            model,
            reason,
            lessons,
            "" if dialect.tools else _TOOLS_HINT,
        )


def searches(call: Call, endpoint: str, dialect: Dialect, sent: bytes) -> bool:
    """Whether to ask again, for less, though a refusal names nothing; or to wait for a call that does.

    As long as the endpoint has never answered the role: one call looks for all of them, once.
    """
    if call.role in dialect.answered:
        return False
    ended = dialect.searches.get(call.role)
    if ended is None:
        ended = dialect.searches[call.role] = asyncio.Event()
        call.search = ended
    elif call.search is not ended:
        if ended.is_set():
            return False
        call.waits_for = ended
        return True
    if call.tried is None or call.tried_at != endpoint:
        call.tried, call.tried_at = dialect.copy(), endpoint
    if ask_for_less(call.tried, sent):
        return True
    call.end_search()
    return False
