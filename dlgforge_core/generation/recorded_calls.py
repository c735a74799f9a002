"""Recording of a worker's calls, for a preview to show and to estimate by."""

from __future__ import annotations

import time
from collections.abc import Callable

from dlgforge_core.generation.worker import Worker
from dlgforge_core.llm.answers import Reply
from dlgforge_core.llm.calls import Call
from dlgforge_core.llm.client import LlmClient
from dlgforge_core.store.preview import RecordedCall


def record_calls(client: LlmClient, worker: Worker, keep: Callable[[RecordedCall], None]) -> None:
    """Give `keep` every call that is answered from now on."""

    def record(call: Call, reply: Reply) -> None:
        answer = reply.answer
        usage = reply.used
        keep(
            RecordedCall(
                dialogue_id=call.affinity,
                turn=worker.turn_of(call.affinity),
                role=call.role.value,
                messages=call.messages,
                tools=[tool.to_json() for tool in call.tools] if reply.tools_offered else [],
                answer=answer.written.strip(),
                prompt_tokens=answer.prompt_tokens,
                completion_tokens=answer.completion_tokens,
                dollars=None if usage.unpriced else usage.dollars,
                seconds=reply.latency_s,
                ended_at=time.time(),
            )
        )

    client.on_reply(record)
