"""What the calls for each open dialogue of a worker have used, for its writes to keep."""

from __future__ import annotations

from dlgforge_core.llm.answers import Reply
from dlgforge_core.llm.calls import Call
from dlgforge_core.llm.client import LlmClient
from dlgforge_core.usage import RoleUsage, Usage


class OpenUsage:
    """Usage by dialogue and role. Grows with the open dialogues alone."""

    def __init__(self, client: LlmClient) -> None:
        self._by_dialogue: dict[str, dict[str, RoleUsage]] = {}
        client.on_reply(self._add)

    def open(self, dialogue_id: str, before: Usage) -> None:
        """Count the calls for a dialogue from now on, to what was used before."""
        self._by_dialogue[dialogue_id] = dict(before)

    def close(self, dialogue_id: str) -> None:
        """Forget a dialogue, which has been written."""
        self._by_dialogue.pop(dialogue_id, None)

    def clear(self) -> None:
        """Forget all dialogues: other workers have them."""
        self._by_dialogue.clear()

    def of(self, dialogue_id: str) -> Usage:
        """Return what the calls for a dialogue have used so far, as it is now."""
        return dict(self._by_dialogue.get(dialogue_id, {}))

    def _add(self, call: Call, reply: Reply) -> None:
        by_role = self._by_dialogue.get(call.affinity)
        if by_role is None:  # a call for no dialogue, or one that another worker has
            return
        role, used = call.role.value, reply.used
        by_role[role] = by_role[role] + used if role in by_role else used
