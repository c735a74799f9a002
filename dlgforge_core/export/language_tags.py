"""Language tags, as the header of a dataset card takes them, of languages as people name them."""

from __future__ import annotations

import re
from functools import lru_cache

from dlgforge_core.languages import language_codes

_CODE = re.compile(r"[a-z]{2,3}")


@lru_cache(maxsize=1024)
def language_tag(language: str) -> str | None:
    """Return the ISO 639 code of a language or dialect: "ar" for "Moroccan Arabic", "pt" for "pt-BR".

    Names may be English or the language's own. None where none is known.
    """
    found = [code for code in language_codes(language) if code in _known()]
    # Who looks for Arabic on a hub finds its dialects, too; small languages have three letters only.
    return next((code for code in found if len(code) == 2), found[0] if found else None)


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    from babel import Locale  # here and not above: only the card needs it

    codes = map(str, Locale("en").languages)
    return frozenset(code for code in codes if _CODE.fullmatch(code)) | {"no"}
