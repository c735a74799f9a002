"""Language tags, as the header of a dataset card takes them, of languages as people name them."""

from __future__ import annotations

import re
from functools import lru_cache

_CODE = re.compile(r"[a-z]{2,3}")


@lru_cache(maxsize=1024)
def language_tag(language: str) -> str | None:
    """The ISO 639 code of a language or dialect: "ar" for "Moroccan Arabic", "pt" for "pt-BR".

    Names may be English or the language's own. None where none is known.
    """
    name = " ".join(re.sub(r"[_-]+", " ", language).casefold().split())
    words = name.split()
    if not words:
        return None
    codes, names = _english()
    if code := codes.get(words[0]):
        return code
    # A name that is known whole and has a two-letter code; then, for dialects, the language that the name
    # ends or begins with ("Gulf Arabic", "français québécois"); then the three-letter codes of small ones.
    parts = [" ".join(words[i:]) for i in range(len(words))]
    parts += [" ".join(words[:i]) for i in range(len(words) - 1, 0, -1)]
    known = [names[part] for part in parts if part in names]
    if not known:
        known = [_autonyms()[part] for part in parts if part in _autonyms()]
    return next((code for code in known if len(code) == 2), known[0] if known else None)


@lru_cache(maxsize=1)
def _english() -> tuple[dict[str, str], dict[str, str]]:
    """The codes that may be used, with what to write for each, and the code of each English name."""
    from babel import Locale  # here and not above: only the card needs it
    from babel.core import get_global

    english = {code: name for code, name in Locale("en").languages.items() if _CODE.fullmatch(code)}
    codes = {**{code: code for code in english}, "no": "no"}
    for old, new in get_global("language_aliases").items():
        if len(old) == 2 and _CODE.fullmatch(new) and old not in codes:
            codes[old] = new
    # Longer codes first, so that the shorter one stays where both have a name.
    names = {english[code].casefold(): code for code in sorted(english, key=lambda c: (-len(c), c))}
    return codes, names


@lru_cache(maxsize=1)
def _autonyms() -> dict[str, str]:
    """The code of each language by its own name for itself; seconds to make, so asked last."""
    from babel import Locale
    from babel.localedata import locale_identifiers

    names: dict[str, str] = {}
    for identifier in locale_identifiers():
        if _CODE.fullmatch(identifier) and (own := Locale(identifier).languages.get(identifier)):
            names.setdefault(own.casefold(), identifier)
    return names
