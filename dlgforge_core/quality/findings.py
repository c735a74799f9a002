"""Findings of the checks of single dialogues: counts and a few examples, which add up over parts of a set."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from typing import Any

import orjson

from dlgforge_core.config import ChecksConfig, MarkupConfig
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.llm.markup import Markup
from dlgforge_core.quality.collectors import COLLECTORS, Finding, Leaks
from dlgforge_core.quality.leaks import PHRASES

Findings = dict[str, dict[str, Any]]
"""What was found in a part of a set, by check: plain data."""

# What decides whether a message is found beside the configuration.
_CODE = (
    "quality.findings",
    "quality.collectors",
    "quality.leaks",
    "quality.language",
    "common.questions",
    "llm.markup",
    "llm.model_families",
    "prompting.passage_marks",
    "languages",
)
_DETECTOR = "lingua-language-detector"


def findings_of(
    dialogues: Iterable[Dialogue],
    languages: Iterable[str],
    config: ChecksConfig,
    names: Collection[str],
    markup: MarkupConfig | None = None,
    phrases: re.Pattern[str] = PHRASES,
) -> Findings:
    """Return what the checks in `names` find in some dialogues, in one pass.

    Memory does not grow with their number.

    `languages` are those of the whole set, which the detector chooses from; `markup` and
    `phrases`, those of their prompts, are what the dialogues were made with.
    """
    checks = [check(config, languages) for name, check in COLLECTORS.items() if name in names]
    for check in checks:
        if isinstance(check, Leaks):
            check.phrases = phrases
            check.markup = Markup(markup) if markup is not None else None
    for dialogue in dialogues:
        for check in checks:
            check.add(dialogue)
    return {check.name: check.to_json() for check in checks}


def problems_of(
    dialogue: Dialogue,
    languages: Iterable[str],
    names: Collection[str],
    markup: MarkupConfig | None = None,
    phrases: re.Pattern[str] = PHRASES,
) -> dict[str, str]:
    """Return what is wrong with one dialogue, by check of those in `names`: the first thing of each."""
    found = findings_of([dialogue], languages, ChecksConfig(max_examples=1), names, markup, phrases)
    problems = {name: Finding(*data["examples"][0]) for name, data in found.items() if data["wrong"]}
    return {
        name: f"turn {finding.turn}: {finding.problem}" if finding.turn else finding.problem
        for name, finding in problems.items()
    }


def findings_key(
    languages: Iterable[str],
    config: ChecksConfig,
    markup: MarkupConfig | None = None,
    phrases: re.Pattern[str] = PHRASES,
) -> bytes:
    """Digest of all that findings depend on beside the dialogues: configuration, languages, and code."""
    names = sorted({name for collector in COLLECTORS.values() for name in collector.settings})
    read = {name: getattr(config, name) for name in [*names, "max_examples"]}
    settings: list[Any] = [read, sorted(set(languages))]
    settings += [markup.model_dump(mode="json")] if markup is not None else []
    settings += [phrases.pattern] if phrases is not PHRASES else []
    return hashlib.blake2b(orjson.dumps([settings, _code()]), digest_size=16).digest()


@lru_cache(maxsize=1)
def _code() -> list[str]:
    """Whoever changes a check need not remember to say so somewhere."""
    modules = (import_module(f"dlgforge_core.{name}") for name in _CODE)
    sources = [inspect.getsource(module) for module in modules] + [PHRASES.pattern]
    digests = (hashlib.blake2b(source.encode()).hexdigest() for source in sources)
    return [*digests, version(_DETECTOR)]
