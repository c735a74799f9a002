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


class LanguageDetector:
    """Tells `languages`, named as in the seed files, from one another and from English."""

    def __init__(self, languages: Iterable[str]) -> None:
        codes = {base_code(language) for language in languages} | set(_ALWAYS)
        codes &= _known()
        if len(codes) < 2:
            codes.add(_SECOND)
        self._detector = _detector(frozenset(codes))

    def knows(self, language: str) -> bool:
        """Whether texts in `language` can be told at all."""
        return base_code(language) in _known()

    def detect(self, text: str) -> str | None:
        """ISO 639-1 code of the text's language; None when the text is too short or tells nothing."""
        if sum(map(str.isalpha, text)) < MIN_LETTERS:
            return None
        found = self._detector.detect_language_of(text)
        return found.iso_code_639_1.name.lower() if found is not None else None


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    from lingua import Language  # here and not above: only the checks need it

    return frozenset(language.iso_code_639_1.name.lower() for language in Language.all())


@lru_cache(maxsize=4)
def _detector(codes: frozenset[str]) -> Any:
    """Half a second and some 30 MB a language to make."""
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    chosen = [getattr(IsoCode639_1, code.upper()) for code in sorted(codes)]
    return LanguageDetectorBuilder.from_iso_codes_639_1(*chosen).build()
