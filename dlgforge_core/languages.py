"""Languages by code ("fr", "ar-MA") or name ("Gulf Arabic"): what they are called and are a kind of."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from babel import Locale, UnknownLocaleError

_ARABIC = (
    "aao abh abv acm acq acw acx adf aeb aec afb ajp apc apd arb arq ars ary arz auz avl ayh ayl ayn ayp pga "
    "shu ssh"
)
# Members of a macrolanguage (ISO 639-3) that are written and detected as it is.
_MACROLANGUAGE = {
    **dict.fromkeys(_ARABIC.split(), "ar"),
    **dict.fromkeys(("cmn", "yue", "wuu", "nan", "hak"), "zh"),
    "gsw": "de",
    "nb": "no",
    "nn": "no",
}
# English names of varieties that CLDR has none for, and what their speakers call theirs.
_ENGLISH = {
    "acm": "Iraqi Arabic",
    "acw": "Hijazi Arabic",
    "afb": "Gulf Arabic",
    "apc": "Levantine Arabic",
    "apd": "Sudanese Arabic",
    "ayl": "Libyan Arabic",
    "ayn": "Yemeni Arabic",
}
_CALLED = {
    "darija": "ary",
    "derja": "aeb",
    "hijazi": "acw",
    "khaleeji": "afb",
    "khaliji": "afb",
    "levantine": "apc",
    "masri": "arz",
    "shami": "apc",
}


def language_name(language: str) -> str:
    """English name of a language code ("fr", "ar-MA"); other names ("Gulf Arabic") stay as they are."""
    locale = _locale(language)
    if locale is not None:
        return locale.english_name or language
    code = _CALLED.get(language.casefold(), language)
    return _ENGLISH.get(code) or str(Locale("en").languages.get(code, language))  # known by name only: "ary"


def is_known(language: str) -> bool:
    """Whether a code or a name is, or holds, that of a language."""
    return (
        _locale(language) is not None
        or language in _ENGLISH
        or language in Locale("en").languages
        or bool(_codes_in(language))
    )


def known_names() -> list[str]:
    """English and own names of all languages, lower-case."""
    return list(_codes_by_name())


@lru_cache(maxsize=256)
def in_language(language: str) -> str:
    """How a prompt asks for a language: its name, and for a spoken variety of Arabic that it is wanted so.

    Models fall back on Modern Standard Arabic, which nobody speaks, and dialects are chosen for being spoken.
    """
    name = language_name(language)
    if base_code(language) != "ar" or _words(name) in (["arabic"], ["modern", "standard", "arabic"]):
        return name
    if (locale := _locale(language)) is not None and locale.language == "ar":
        return name  # of a country: Modern Standard as it is written there
    return f"{name}, as its speakers write it in chats, not in Modern Standard Arabic"


def base_code(language: str) -> str:
    """Code of the language that this is a kind of: "pt" for "pt-BR", "ar" for "Moroccan Arabic".

    A name that holds no known language's name stays as it is, in lower case.
    """
    code = language_codes(language)[0]
    return _MACROLANGUAGE.get(code, code)


def language_codes(language: str) -> list[str]:
    """Codes of the languages that a code or name holds, the nearest first: "ary", "ar" for "Moroccan Arabic".

    Names may be English or the language's own. One that holds no known language's name is its own code, in
    lower case and up to its first hyphen.
    """
    locale = _locale(language)
    if locale is not None:
        return [str(locale.language)]
    return _codes_in(language) or [language.replace("_", "-").split("-", 1)[0].lower()]


@lru_cache(maxsize=256)
def is_right_to_left(language: str) -> bool:
    """Whether a language is written from right to left, by its code or name."""
    locale = _locale(language) or _locale(base_code(language))
    return locale is not None and locale.text_direction == "rtl"


def _codes_in(name: str) -> list[str]:
    words = _words(name)
    names = _codes_by_name()
    # The longest name wins, and the last of those: "Swiss German" is German, "Haitian Creole" is not French.
    found = [
        names.get(" ".join(words[start : start + length]))
        for length in range(len(words), 0, -1)
        for start in range(len(words) - length, -1, -1)
    ]
    return list(dict.fromkeys(code for code in found if code))


def _words(text: str) -> list[str]:
    # Marks belong to the letters before them, as the vowels of Hindi do.
    text = unicodedata.normalize("NFC", text).casefold()
    return "".join(c if c.isalpha() or unicodedata.category(c)[0] == "M" else " " for c in text).split()


@lru_cache(maxsize=1024)
def _locale(language: str) -> Locale | None:
    try:
        return Locale.parse(language.replace("-", "_"))
    except (UnknownLocaleError, ValueError):
        return None


@lru_cache(maxsize=1)
def _codes_by_name() -> dict[str, str]:
    """Return base codes by English and by own name, case-folded."""
    codes: dict[str, str] = {}
    for code, name in Locale("en").languages.items():
        base = code.split("_")[0]
        codes.setdefault(" ".join(_words(str(name))), base)
        own = _locale(code)
        if own is not None and own.language_name:
            codes.setdefault(" ".join(_words(str(own.language_name))), base)
    for code, name in _ENGLISH.items():
        codes.setdefault(" ".join(_words(name)), code)
    return codes | _CALLED
