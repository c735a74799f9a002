"""Errors that end one call, and how much of a run they end."""

from __future__ import annotations

from typing import Any

from dlgforge_core.dialogue import DropReason, Role
from dlgforge_core.errors import DlgforgeError


class CallError(DlgforgeError):
    """This one call cannot succeed; the message says why. `reason` is why its dialogue is dropped."""

    def __init__(self, reason: DropReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        # With two arguments an exception does not survive pickling, as between Ray processes, by itself.
        return type(self), (self.reason, str(self))


class RequestRefusedError(CallError):
    """The endpoint refused what it was asked, and there was no other way to ask for it.

    Whether that is about this dialogue or about the set-up shows only once the endpoint has answered the
    role: `endpoint` and `role` tell whose figures to look at.
    """

    def __init__(self, endpoint: str, role: Role, message: str) -> None:
        super().__init__(DropReason.ENDPOINT_ERROR, message)
        self.endpoint = endpoint
        self.role = role

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.endpoint, self.role, str(self))
