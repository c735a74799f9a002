"""Language of a text: whether it is the one that was asked for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from dlgforge_core.languages import base_code

# Detection chooses among few languages, as each takes memory. English is always one of them: it is what
# models fall back to. A detector needs two at least.
_ALWAYS = ("en",)
_SECOND = "fr"
# Shorter texts are no evidence.
MIN_LETTERS = 12
# Of a text with letters in it, enough to have so many.
_HEAD_CHARS = 40
# Of each of three parts of a long text that is looked at for the language that is expected.
_EXCERPT_CHARS = 80
_LEAST_DISTANCE = 0.25
"""Between the probabilities of the likeliest two languages, for a first look to count."""


class LanguageDetector:
    """Tells `languages`, named as in the seed files, from one another and from English."""

    def __init__(self, languages: Iterable[str]) -> None:
        codes = {base_code(language) for language in languages} | set(_ALWAYS)
        codes &= _known()
        if len(codes) < 2:
            codes.add(_SECOND)
        self._detector, self._quick = _detectors(frozenset(codes))

    def knows(self, language: str) -> bool:
        """Whether texts in `language` can be told at all."""
        return base_code(language) in _known()

    def detect(self, text: str, expected: str = "") -> str | None:
        """ISO 639-1 code of the text's language; None when the text is too short or tells nothing.

        A text in the language that is `expected`, as most are, takes a third of the time.
        """
        if _letters(text[:_HEAD_CHARS]) < MIN_LETTERS and _letters(text) < MIN_LETTERS:
            return None
        if expected and _code(self._quick.detect_language_of(_excerpt(text))) == base_code(expected):
            return base_code(expected)
        return _code(self._detector.detect_language_of(text))


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text))


def _code(found: Any) -> str | None:
    return found.iso_code_639_1.name.lower() if found is not None else None


def _excerpt(text: str) -> str:
    """Return the beginning, the middle and the end of a long text."""
    if len(text) <= 4 * _EXCERPT_CHARS:
        return text
    middle = (len(text) - _EXCERPT_CHARS) // 2
    parts = text[:_EXCERPT_CHARS], text[middle : middle + _EXCERPT_CHARS], text[-_EXCERPT_CHARS:]
    return " ".join(parts)


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    from lingua import Language  # here and not above: only the checks need it

    return frozenset(language.iso_code_639_1.name.lower() for language in Language.all())


@lru_cache(maxsize=4)
def _detectors(codes: frozenset[str]) -> tuple[Any, Any]:
    """Return a detector, and one that looks at trigrams alone and gives no answer in doubt.

    Half a second and some 30 MB a language to make; they share their models.
    """
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    chosen = [getattr(IsoCode639_1, code.upper()) for code in sorted(codes)]
    quick = LanguageDetectorBuilder.from_iso_codes_639_1(*chosen).with_low_accuracy_mode()
    detector = LanguageDetectorBuilder.from_iso_codes_639_1(*chosen).build()
    return detector, quick.with_minimum_relative_distance(_LEAST_DISTANCE).build()
