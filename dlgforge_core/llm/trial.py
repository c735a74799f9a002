"""A call that belongs to no dialogue: whether an endpoint answers, whatever the dialogues' prompts do."""

from __future__ import annotations

from collections.abc import Mapping

from dlgforge_core.llm import completions, pauses, server_errors
from dlgforge_core.llm.endings import Endings
from dlgforge_core.llm.refusals import Blame, judge
from dlgforge_core.llm.server_errors import ErrorAnswer
from dlgforge_core.llm.tool_calls import Message
from dlgforge_core.llm.transport import EndpointTransport, HttpAnswer, TransportError
from dlgforge_core.llm.vocabulary import Meaning

TRIAL_MESSAGES: list[Message] = [
    {"role": "user", "content": "Answer in one short sentence: which day comes after Monday?"}
]


class Trial:
    """One call with the parameters of a call that failed, and with a prompt of our own.

    An endpoint that answers it, if only to refuse it as a request, works: what failed was the other prompt.
    """

    def __init__(
        self,
        transport: EndpointTransport,
        body: bytes,
        words: Mapping[str, Meaning],
        endings: Endings,
        *,
        timeout_s: float | None = None,
    ) -> None:
        self._transport = transport
        self._body = body
        self._words = words
        self._endings = endings
        self._timeout_s = timeout_s
        self.prompt_tokens = 0
        self.completion_tokens = 0

    async def make(self) -> str:
        """Why the endpoint does not answer, or an empty string."""
        try:
            http = await self._transport.post_chat(self._body, self._timeout_s)
        except TransportError as failure:
            return str(failure)
        if http.status != 200:
            return self._problem(server_errors.read_error(http, self._words), http)
        try:
            answer = completions.read_answer(http.body, self._words)
        except ValueError as unreadable:
            return str(unreadable)
        if isinstance(answer, ErrorAnswer):
            return self._problem(answer, http)
        self.prompt_tokens, self.completion_tokens = answer.prompt_tokens, answer.completion_tokens
        return self._endings.of(answer.finish_reason, self._transport.endpoint.name).problem

    def _problem(self, error: ErrorAnswer, http: HttpAnswer) -> str:
        pause_s = pauses.pause_s(http)
        refusal = judge(
            error,
            self._body,
            pause_s=pause_s,
            has_key=self._transport.endpoint.has_key,
            location=self._transport.redact(http.headers.get("location", "")),
        )
        if refusal.blame in (Blame.REQUEST, Blame.TOOL_CALL):
            return ""
        if refusal.blame is Blame.OVERLOAD and pause_s is not None:
            return f"{refusal.reason} (it asks for a pause of {pause_s:g} s)"
        return refusal.reason
