"""Whether a role has ever been answered: until then a failure may be the set-up's, and drops nobody."""

from __future__ import annotations

from dlgforge_core.dialogue import DropReason, Role
from dlgforge_core.errors import RunRefusedError, RunStoppedError
from dlgforge_core.llm.call_errors import CallError, RequestRefusedError
from dlgforge_core.llm.stats import CallStats

FAILURES_TO_STOP = 10
"""Different dialogues whose calls of one role failed, with none answered: it is no matter of one dialogue."""


class RoleRecord:
    """The roles that were answered, by any endpoint, and the dialogues that failed before.

    `expected_failures`: so many dialogues have failed in an earlier run, and may well do so again.
    """

    def __init__(self, stats: CallStats, expected_failures: int = 0) -> None:
        self._stats = stats
        self.failures_to_stop = FAILURES_TO_STOP + expected_failures
        self._failed: dict[Role, set[str]] = {}

    def has_answer(self, role: Role) -> bool:
        """Whether any endpoint has answered a call of this role."""
        return any(counts.calls for (_, r), counts in self._stats.by_key.items() if r == role)

    def error_of(self, role: Role, dialogue: str, error: CallError) -> CallError | RunStoppedError:
        """Return what a failed call means to its caller: about the dialogue, in doubt, or about the run."""
        if error.reason is DropReason.INVALID_OUTPUT or self.has_answer(role):
            self._failed.pop(role, None)
            return error
        failed = self._failed.setdefault(role, set())
        failed.add(dialogue)
        if len(failed) >= self.failures_to_stop:
            return RunRefusedError(
                f"no call of {role.value} was answered, in {len(failed)} dialogues; the last one: {error}"
            )
        return RequestRefusedError(error.endpoint, role, str(error), error.reason)
