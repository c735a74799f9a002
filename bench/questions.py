"""Made-up questions, and near-copies of them: what `bench.near_duplicates` asks.

Those of the templates are in six languages; those of the narrow vocabulary are 14 words, each of the same 24.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.support.simulated.content import QUESTION_WORDS


@dataclass(frozen=True)
class Phrases:
    """What a language's questions are made of. A template names slots; each slot is a list to draw from."""

    templates: list[str]
    slots: dict[str, list[str]]
    polite: list[str]
    spaced: bool = True

    def question(self, draw: random.Random) -> str:
        """Return a question; some mention a made-up name or a number."""
        filled = {slot: draw.choice(words) for slot, words in self.slots.items()}
        filled["second"] = draw.choice(self.slots["thing"])
        filled["name"] = "".join(draw.choice(_SYLLABLES) for _ in range(draw.randint(2, 4))).capitalize()
        filled["number"] = str(draw.randint(2, 4000))
        return draw.choice(self.templates).format(**filled)


_SYLLABLES = (
    *("ka", "lo", "mi", "ren", "tu", "sa", "vor", "bel", "ni", "dra", "qui", "zen"),
    *("po", "har", "el", "ys", "gan", "tri", "mo", "fe", "ul", "cor", "wi", "jan", "ster"),
)

LANGUAGES = {
    language: Phrases(**phrases)
    for language, phrases in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8")).items()
}


def question(draw: random.Random) -> tuple[str, str]:
    """Return a language's code and a question in it."""
    language = draw.choice(list(LANGUAGES))
    return language, LANGUAGES[language].question(draw)


def _narrow_words() -> list[str]:
    draw = random.Random(24)
    words: list[str] = []
    while len(words) < 24:
        word = "".join(draw.choice(_SYLLABLES) for _ in range(draw.randint(2, 3)))
        if word not in words:
            words.append(word)
    return words


NARROW_WORDS = _narrow_words()


def narrow_question(draw: random.Random) -> tuple[str, str]:
    """Return a language's code and a question of the narrow vocabulary."""
    return "en", " ".join(draw.choices(NARROW_WORDS, k=QUESTION_WORDS))


VOCABULARIES: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "templates": question,
    "narrow": narrow_question,
}


def _typo(text: str, language: str, draw: random.Random) -> str:
    """One character dropped, doubled, or exchanged with the next one."""
    place = draw.randrange(1, len(text) - 2)
    kind = draw.randrange(3)
    if kind == 0:
        return text[:place] + text[place + 1 :]
    if kind == 1:
        return text[:place] + text[place] + text[place:]
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]


def _swapped(text: str, language: str, draw: random.Random) -> str:
    """Two neighbouring words exchanged; where words are not spaced, two neighbouring pairs of characters."""
    if LANGUAGES[language].spaced:
        words = text.split(" ")
        place = draw.randrange(len(words) - 1)
        words[place], words[place + 1] = words[place + 1], words[place]
        return " ".join(words)
    place = draw.randrange(len(text) - 4)
    return text[:place] + text[place + 2 : place + 4] + text[place : place + 2] + text[place + 4 :]


def _punctuated(text: str, language: str, draw: random.Random) -> str:
    return text.rstrip("?？؟ ") + draw.choice(["", "!", "??", " …", "."])


def _polite(text: str, language: str, draw: random.Random) -> str:
    return draw.choice(LANGUAGES[language].polite) + text


def _cased(text: str, language: str, draw: random.Random) -> str:
    return draw.choice([text.upper(), text.lower(), text.title()])


NEAR_COPIES: dict[str, Callable[[str, str, random.Random], str]] = {
    "typo": _typo,
    "word swapped": _swapped,
    "punctuation": _punctuated,
    "politeness": _polite,
    "case": _cased,
}
