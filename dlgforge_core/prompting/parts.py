"""Parts that prompts are put together from."""

from __future__ import annotations

from dlgforge_core.prompting.quoting import neutralise


def inline(text: str) -> str:
    """Text from a seed file as part of a sentence: no line of its own, no control token."""
    return " ".join(neutralise(text).split())


def system_text(*texts: str) -> str:
    """Paragraphs of a system message, a line each; empty ones are left out."""
    return "\n".join(filter(None, texts))


def paragraphs(*texts: str) -> str:
    """Texts with an empty line between them; empty ones are left out."""
    return "\n\n".join(filter(None, texts))
