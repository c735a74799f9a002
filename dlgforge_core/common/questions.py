"""Questions compared by their normal form."""

from __future__ import annotations

import hashlib
import unicodedata

_KEPT = ("L", "M", "N", "S")


def normal_form(text: str) -> str:
    """Return what two questions must share to count as the same.

    Unicode NFKC, case-folded, and every run of white space, punctuation and control characters made one
    space. Symbols stay: "C+" and "C" are different questions. A text of punctuation only is its own form.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = "".join(c if unicodedata.category(c)[0] in _KEPT else " " for c in folded).split()
    return " ".join(words) or folded.strip()


def question_key(text: str) -> bytes:
    """16-byte digest of the normal form, the unique key in the store."""
    return hashlib.blake2b(normal_form(text).encode("utf-8", "replace"), digest_size=16).digest()
