"""Keeps a signal's handler as it is while code runs that puts its own in place, below Python too."""

from __future__ import annotations

import contextlib
import ctypes
import signal
from collections.abc import Iterator

# More than `struct sigaction` takes anywhere; what is in it is the system's business.
_ROOM = 1024


@contextlib.contextmanager
def handler_kept(number: signal.Signals) -> Iterator[None]:
    """Put the handler of a signal back afterwards, from whatever thread.

    Ray's core installs a handler that passes SIGTERM on, but has the process aborted three seconds later, in
    the middle of what Python does upon the signal. `signal.signal` could not mend that: it works on the main
    thread alone.
    """
    try:
        sigaction = ctypes.CDLL(None, use_errno=True).sigaction
    except (AttributeError, OSError, TypeError):  # no such thing on this system
        yield
        return
    before = ctypes.create_string_buffer(_ROOM)
    known = sigaction(int(number), None, before) == 0
    try:
        yield
    finally:
        if known:
            sigaction(int(number), before, None)
