"""Questions compared by their normal form."""

from __future__ import annotations

import hashlib
import unicodedata

_KEPT = ("L", "M", "N", "S")


class _Words(dict[int, str]):
    """What a character is in the normal form, worked out once for each that comes."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = kept = character if unicodedata.category(character)[0] in _KEPT else " "
        return kept


_WORDS = _Words()


def normal_form(text: str) -> str:
    """Return what two questions must share to count as the same.

    Unicode NFKC, case-folded, and every run of white space, punctuation and control characters made one
    space. Symbols stay: "C+" and "C" are different questions. A text of punctuation only is its own form.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.translate(_WORDS).split()) or folded.strip()


def question_key(text: str) -> bytes:
    """16-byte digest of the normal form, the unique key in the store."""
    return hashlib.blake2b(normal_form(text).encode("utf-8", "replace"), digest_size=16).digest()
