"""Parts that prompts are put together from."""

from __future__ import annotations

from dlgforge_core.prompting.quoting import neutralise


def inline(text: str) -> str:
    """Text from a seed file as part of a sentence: no line of its own, no control token."""
    return " ".join(neutralise(text).split())
