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
