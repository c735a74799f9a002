"""Characters that nobody sees: which of them are part of a word or an emoji, and which are leftovers.

Zero-width joiners shape words in Persian, Indic and other scripts, and make one emoji of several; variation
selectors choose a form of a symbol or a Han character. Elsewhere they, soft hyphens and marks of direction
come from web pages and word processors, and two texts that differ by them alone look the same.
"""

from __future__ import annotations

import re
import unicodedata

_ZWNJ, _ZWJ = "\u200c", "\u200d"
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_FILLERS = "\u115f\u1160\u3164\uffa0\u2800"
# The characters that Unicode has renderers leave out (Default_Ignorable_Code_Point), and a few like them.
_INVISIBLE = re.compile(
    f"[\u00ad\u034f\u061c\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    f"\U0001d173-\U0001d17a\U000e0000-\U000e007f{_SELECTORS}{_FILLERS}]"
)
# Scripts whose letters change their form by a joiner: Arabic to Sinhala, Tibetan, Burmese, Khmer, Mongolian,
# and the further blocks of these.
_JOINING = re.compile(
    "[\u0600-\u0dff\u0f00-\u109f\u1780-\u18af\u1a00-\u1aff\u1cd0-\u1cff\ua8e0-\ua8ff\ua9e0-\ua9ff\uaa60-\uaa7f"
    "\ufb50-\ufdff\ufe70-\ufeff\U00010a00-\U00011fff\U0001e900-\U0001e95f]"
)
_EMOJI_PART = re.compile("[\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e007f]")


def tidy(text: str) -> str:
    """`text` without invisible leftovers; joiners and selectors stay where they have a meaning."""
    if not _INVISIBLE.search(text):
        return text
    return "".join(
        char
        for index, char in enumerate(text)
        if not _INVISIBLE.match(char) or _has_meaning(text, index, char)
    )


def _has_meaning(text: str, index: int, char: str) -> bool:
    before, after = text[index - 1 : index], text[index + 1 : index + 2]
    if char == _ZWNJ:
        return bool(_JOINING.match(before) and _JOINING.match(after))
    if char == _ZWJ:
        # At the end of a word it makes the half form of an Indic consonant.
        return bool(_JOINING.match(before)) or (_is_symbol(before) and _is_symbol(after))
    if "\U000e0020" <= char <= "\U000e007f":  # spells a flag after its emoji: England's, Scotland's
        start = index
        while start and "\U000e0020" <= text[start] <= "\U000e007f":
            start -= 1
        return text[start] == "\U0001f3f4"
    if re.match(f"[{_SELECTORS}]", char) and before:
        return _is_symbol(before) or before in "0123456789#*" or _is_han(before)
    return False


def _is_symbol(char: str) -> bool:
    return bool(char) and (
        unicodedata.category(char) in ("So", "Sm", "Sk", "Po") or bool(_EMOJI_PART.match(char))
    )


def _is_han(char: str) -> bool:
    return unicodedata.name(char, "").startswith("CJK ")


def skeleton(text: str) -> str:
    """Return what is equal for texts that look the same but for white space: for comparing alone.

    Joiners with a meaning count; selectors do not.
    """
    plain = re.sub(f"[{_SELECTORS}]", "", tidy(text))
    return " ".join(unicodedata.normalize("NFC", plain).split())


def is_visible(text: str) -> bool:
    """Whether anything of `text` can be seen: a letter, a digit, a symbol, a punctuation mark."""
    return any(
        unicodedata.category(char)[0] in "LNPS" or unicodedata.category(char) == "Co"
        for char in _INVISIBLE.sub("", text)
    )
