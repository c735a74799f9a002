"""JSON pointers (RFC 6901): the names on the way to a part of a document."""

from __future__ import annotations


def pointer_parts(pointer: str) -> list[str]:
    """Return the names that a pointer, which begins with a slash, is made of."""
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/")]


def pointer_part(name: str) -> str:
    """Return a name as it stands in a pointer."""
    return name.replace("~", "~0").replace("/", "~1")
