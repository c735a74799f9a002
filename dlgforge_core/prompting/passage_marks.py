"""How a role gives away that it was shown something: it names the material, or repeats its form."""

from __future__ import annotations

import re

FRAME = re.compile(r"</?passages?>", re.IGNORECASE)
"""The frame that passages are quoted in."""
QUOTE_MARK = re.compile(r"(?m)^[ \t]*>[ \t]?")
"""What quoted lines begin with."""
# The names that the prompts use, and near ones.
_MATERIAL = re.compile(
    r"\b(?:passages?|excerpts?|quoted (?:material|text)|(?:given|provided) (?:text|document|material)|"
    r"(?:text|material|document) (?:above|you (?:gave|provided|quoted)))\b|</?passages?>|^[ \t]*>",
    re.IGNORECASE | re.MULTILINE,
)


def names_material(question: str, topic: str = "") -> bool:
    """Whether a question speaks of the passage it was made from, or quotes it, unless the topic does, too."""
    return bool(_MATERIAL.search(question)) and not _MATERIAL.search(topic)


# Less than of a question: an answer may speak of passages of many kinds.
_NAMED = r"(?:(?:given|provided|quoted) )?(?:passages?|excerpts?)(?: (?:above|provided|given))?"
_SOURCE = re.compile(
    rf"\b(?:according to|based on|as (?:stated|described|mentioned|explained|noted) in) "
    rf"(?:the|these|this|your) {_NAMED}\b(?! of\b)|"
    rf"\b(?:the|these|this|your) {_NAMED} (?:also |only |clearly )?"
    r"(?:states?|says?|suggests?|mentions?|describes?|explains?|notes?|indicates?|recommends?|advises?|provides?|"
    r"tells?|lists?|implies|imply|(?:does|do) ?n[o'’]t|(?:does|do) not)\b",
    re.IGNORECASE,
)


def names_source(answer: str, *asked: str) -> str:
    """Return the words with which an answer speaks of the passages it draws on; "" without.

    None count where the question or the topic, `asked`, speak of such material.
    """
    found = _SOURCE.search(answer)
    return found[0] if found and not any(map(_MATERIAL.search, asked)) else ""
