"""The errors a user of dlgforge may meet; every message says what is wrong and what would be right."""

from __future__ import annotations

from dlgforge_core.printable import printable


class DlgforgeError(Exception):
    """Base of all errors raised on purpose by dlgforge.

    Messages quote servers, files and models: control characters in them are written out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class ConfigError(DlgforgeError):
    """The configuration cannot work; the message lists every problem found, by key."""


class SeedError(DlgforgeError):
    """A seed or persona file cannot be read; the message names file and line."""


class KnowledgeError(DlgforgeError):
    """The documents cannot be read, or their index cannot be used as it was asked for."""


class StoreError(DlgforgeError):
    """The Postgres run state cannot be reached or used; `transient` when that may pass by itself."""

    def __init__(self, message: str, transient: bool = True) -> None:
        super().__init__(message)
        self.transient = transient


class UnstorableError(StoreError):
    """A value that Postgres cannot hold, among those that were to be written."""


class LeaseLostError(StoreError):
    """Another worker has taken over a dialogue this one was working on."""


class RunStoppedError(DlgforgeError):
    """The run stopped before its plan was complete; running it again resumes it."""


class RunRefusedError(RunStoppedError):
    """Every endpoint refuses what is asked: trying again needs another key, account or model."""


class BackendError(DlgforgeError):
    """The endpoints of the chosen backend cannot be used."""


class RayError(DlgforgeError):
    """The Ray cluster cannot be reached, started or used."""
