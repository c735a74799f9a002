"""What the HTTP client of huggingface_hub raises when a hub cannot be reached."""

from __future__ import annotations

import contextlib
import importlib


def transport_errors() -> tuple[type[Exception], ...]:
    """Return what a hub that cannot be reached looks like: huggingface_hub took up httpx2 after httpx."""
    found: list[type[Exception]] = [ConnectionError, TimeoutError]
    for name in ("httpx", "httpx2"):
        with contextlib.suppress(ImportError):
            found.append(importlib.import_module(name).TransportError)
    return tuple(found)
