"""Language detection: the language of a text, or that it is unknown."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from dlgforge_core.errors import ConfigError
from dlgforge_core.languages import base_code

# Raised whenever the same text may be told to be in another language: files are read anew then.
DETECTION_VERSION = 1
# Enough to tell a language, and quick.
_CHARS = 1_500
_MARKED_UP_CHARS = 6_000
_MIN_LETTERS = 12
# Wrong guesses on short texts and tables have 0.7 and less, right ones on a sentence mostly more than 0.9.
_SURE_FROM = 0.75
# What is in no language, or in that of programs: code, markup, addresses, names of images and links.
_MARKUP = re.compile(
    r"^(?P<fence>```+|~~~+).*?(?:^(?P=fence)|\Z)|`[^`\n]*`|<[^<>]{1,300}>|\]\([^()\s]{0,500}\)|"
    r"\b(?:https?://|www\.)\S+|[^\s@]{1,100}+@[^\s.]{1,255}+\.\S++|^[^\S\n]*\[[^\]\n]+\]:.*$|[#*_|~=>\[\]`\\]+",
    re.MULTILINE | re.DOTALL,
)


def detect_language(text: str, languages: Sequence[str] = ()) -> str:
    """ISO 639-1 code of a text's language, among these (codes or names) or all that lingua knows.

    Empty when it cannot be told with some certainty. Raises ConfigError when lingua does not know one of
    several languages.
    """
    codes = tuple(sorted({base_code(language) for language in languages}))
    start = " ".join(_MARKUP.sub(" ", text[:_MARKED_UP_CHARS]).split())[:_CHARS]
    if sum(map(str.isalpha, start)) < _MIN_LETTERS:
        return ""
    if len(codes) == 1:
        return codes[0]
    shares: defaultdict[str, float] = defaultdict(float)
    for found in _detector(codes).compute_language_confidence_values(start):
        shares[_code(found.language)] += found.value  # Norwegian is two to lingua
    best = max(shares, key=lambda code: shares[code])
    return best if shares[best] >= _SURE_FROM else ""


def _code(language: Any) -> str:
    return base_code(language.iso_code_639_1.name.lower())


@lru_cache(maxsize=4)
def _detector(codes: tuple[str, ...]) -> Any:
    """All languages in 80 MB; the accurate models, made for single sentences, would take 1 GB."""
    from lingua import Language, LanguageDetectorBuilder  # here and not above: only reading needs it

    builder = LanguageDetectorBuilder.from_all_languages()
    if codes:
        known = {language: _code(language) for language in Language.all()}
        if unknown := sorted(set(codes) - set(known.values())):
            raise ConfigError(
                f"knowledge.languages: {', '.join(unknown)} cannot be detected; "
                "leave it out, or name it alone"
            )
        wanted = [language for language, code in known.items() if code in codes]
        builder = LanguageDetectorBuilder.from_languages(*wanted)
    return builder.with_low_accuracy_mode().build()
