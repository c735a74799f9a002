"""Phrases of the prompts' templates, by which a message gives away that it repeats its instructions.

They are taken from the templates themselves: whoever rewords one need not remember the check for leaks.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping

from jinja2 import nodes

from dlgforge_core.common.templates import TextTemplate

_WORDS = 6
"""Words in a row, from where a clause starts, that nobody says who does not repeat a template."""
_WHOLE_MESSAGE_WORDS = 5
_AFTER_VALUE_WORDS = 3
_COMBINED_CONDITIONS = 8
_LABEL_WORDS = 3
_VALUE = "\x00"
_ANY_VALUE = r"[^\n]{1,200}?"
_TOKEN = re.compile(rf"{_VALUE}|[^\W_]+(?:['’][^\W_]+)*")
_CLAUSE_END = re.compile(r"[.;?!\n]")
_LABEL = re.compile(rf"(?:^|[.;?!\n])[^\S\n]*+([^.:;?!\n{_VALUE}]+:)\s*{_VALUE}")


def phrase_pattern(templates: Iterable[TextTemplate], most: int) -> re.Pattern[str]:
    """Return what finds one of the first `most` phrases of the templates.

    A phrase is the start of a clause, on into the next ones and past what varies, a label before what varies,
    or a message that is short and never varies.
    """
    texts = dict.fromkeys(itertools.chain.from_iterable(map(_variants, templates)))
    found = dict.fromkeys(phrase for text in texts for phrase in _phrases(text))
    phrases = itertools.islice(found, most)
    return re.compile(rf"\b(?:{_alternatives(sorted(phrases))})", re.IGNORECASE)


def _alternatives(phrases: Iterable[str]) -> str:
    """Return what matches one of these patterns, of which only those with a word's first letter are tried."""
    by_letter: dict[str, list[str]] = {}
    for phrase in phrases:
        first = phrase[:1].lower()
        by_letter.setdefault(first if first.isascii() and first.isalpha() else "", []).append(phrase)
    parts = by_letter.pop("", [])
    for letter, group in by_letter.items():
        # A set that heeds the case is looked up before a branch is entered.
        rest = "|".join(phrase[1:] for phrase in group)
        parts.append(f"(?-i:[{letter}{letter.upper()}])(?:{rest})")
    return "|".join(parts)


def _variants(template: TextTemplate) -> Iterator[str]:
    """Yield the texts of a template by what applies, with a mark in place of each value."""
    conditions = list(_conditions(template.tree))
    choices: Iterable[tuple[bool, ...]]
    if len(conditions) <= _COMBINED_CONDITIONS:
        choices = itertools.product((True, False), repeat=len(conditions))
    else:  # each by itself, among all and among none
        single = [tuple(i == j for j in range(len(conditions))) for i in range(len(conditions))]
        choices = [*single, *(tuple(not value for value in choice) for choice in single)]
    for choice in choices:
        holds = dict(zip(conditions, choice, strict=True))
        yield "".join(_texts_of(template.tree.body, holds))


def _conditions(tree: nodes.Template) -> dict[str, None]:
    """Return the conditions that decide which parts apply, each once, without a `not` before them."""
    tests = [node.test for node in tree.find_all((nodes.If, nodes.CondExpr))]  # type: ignore[attr-defined]
    return dict.fromkeys(_condition(test)[0] for test in tests)


def _condition(test: nodes.Node) -> tuple[str, bool]:
    """Return a condition's name, and what it is when the test holds."""
    if isinstance(test, nodes.Not):
        name, value = _condition(test.node)
        return name, not value
    return repr(test), True


def _texts_of(parts: Iterable[nodes.Node], holds: Mapping[str, bool]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, nodes.Output):
            yield from _texts_of(part.nodes, holds)
        elif isinstance(part, nodes.TemplateData):
            yield part.data
        elif isinstance(part, nodes.Const):
            yield str(part.value)
        elif isinstance(part, nodes.For):
            yield from _texts_of(part.body, holds)
        elif isinstance(part, nodes.If):
            yield from _texts_of(_branch(part, holds), holds)
        elif isinstance(part, nodes.CondExpr):
            name, value = _condition(part.test)
            chosen = part.expr1 if holds[name] == value else part.expr2
            yield from _texts_of([chosen] if chosen is not None else [], holds)
        else:
            yield _VALUE


def _branch(part: nodes.If, holds: Mapping[str, bool]) -> list[nodes.Node]:
    for one in (part, *part.elif_):
        name, value = _condition(one.test)
        if holds[name] == value:
            return one.body
    return part.else_


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
