"""Phrases of the prompts' templates, by which a message gives away that it repeats its instructions.

They are taken from the templates themselves: whoever rewords one need not remember the check for leaks.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from dlgforge_core.prompting.templates import MessageTemplate, Templates

_WORDS = 6
"""Words in a row, from where a clause starts, that nobody says who does not repeat a template."""
_WHOLE_MESSAGE_WORDS = 5
_AFTER_VALUE_WORDS = 3
_LABEL_WORDS = 3
_VALUE = "\x00"
_ANY_VALUE = r"[^\n]{1,200}?"
_TOKEN = re.compile(rf"{_VALUE}|[^\W_]+(?:['’][^\W_]+)*")
_CLAUSE_END = re.compile(r"[.;?!\n]")
_LABEL = re.compile(rf"(?:^|[.;?!\n])\s*([^.:;?!\n{_VALUE}]+:)\s*{_VALUE}")


def phrase_pattern(templates: Templates) -> re.Pattern[str]:
    """Return what finds a phrase of any of the templates.

    A phrase is the start of a clause, on into the next ones and past what varies, a label before what varies,
    or a message that is short and never varies.
    """
    texts = dict.fromkeys(itertools.chain.from_iterable(map(_variants, templates.by_message.values())))
    phrases = {phrase for text in texts for phrase in _phrases(text)}
    return re.compile(rf"\b(?:{'|'.join(sorted(phrases))})", re.IGNORECASE)


def _variants(template: MessageTemplate) -> Iterator[str]:
    """Yield the texts of a template by what applies, with a mark in place of each value."""
    choices = [(_VALUE, "") if name in template.conditions else (_VALUE,) for name in template.variables]
    for values in itertools.product(*choices):
        yield template.render(**dict(zip(template.variables, values, strict=True)))


def _phrases(text: str) -> Iterator[str]:
    """Yield the phrases of a text, as regular expressions."""
    for label in _LABEL.finditer(text):
        words = _TOKEN.findall(label[1])
        if len(words) >= _LABEL_WORDS:
            yield rf"{_expression(words)}[\W_]*:"
    words = _TOKEN.findall(text)
    if _VALUE not in words and _WHOLE_MESSAGE_WORDS <= len(words) < _WORDS:
        yield _expression(words)
    rest = _LABEL.sub("\n", text)
    tokens = list(_TOKEN.finditer(rest))
    words = [token[0] for token in tokens]
    ends = [0, *(token.end() for token in tokens)]
    for first, token in enumerate(tokens):
        starts = not first or _CLAUSE_END.search(rest, ends[first], token.start())
        if starts and token[0] != _VALUE and (phrase := _first_words(words[first:])):
            yield _expression(phrase)


def _first_words(tokens: list[str]) -> list[str]:
    """As many tokens as hold enough words, some of them after the last value; none when they do not."""
    count = since_value = 0
    for number, token in enumerate(tokens, start=1):
        if token == _VALUE:
            since_value = -_AFTER_VALUE_WORDS
        else:
            count, since_value = count + 1, since_value + 1
        if count >= _WORDS and since_value >= 0:
            return tokens[:number]
    return []


def _expression(tokens: list[str]) -> str:
    words = (_ANY_VALUE if token == _VALUE else re.sub("['’]", "['’]", token) for token in tokens)
    return r"[\W_]+".join(words)
