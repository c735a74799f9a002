"""Errors that end one call, and how much of a run they end."""

from __future__ import annotations

from typing import Any

from dlgforge_core.dialogue import DropReason, Role
from dlgforge_core.errors import DlgforgeError


class CallError(DlgforgeError):
    """This one call cannot succeed; the message says why. `reason` is why its dialogue is dropped."""

    def __init__(self, reason: DropReason, message: str, endpoint: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.endpoint = endpoint

    def __reduce__(self) -> tuple[Any, ...]:
        # With several arguments an exception does not survive pickling, as between Ray processes, by itself.
        return type(self), (self.reason, str(self), self.endpoint)


class RequestRefusedError(CallError):
    """The call cannot succeed, and its role has had no answer yet from any endpoint.

    Whether that is about this dialogue or about the set-up shows only once the role has been answered.
    """

    def __init__(
        self, endpoint: str, role: Role, message: str, reason: DropReason = DropReason.ENDPOINT_ERROR
    ) -> None:
        super().__init__(reason, message, endpoint)
        self.role = role

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.endpoint, self.role, str(self), self.reason)
