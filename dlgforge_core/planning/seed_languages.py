"""Languages of seed topics and of a run: which topics a target language takes, and which nobody takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from dlgforge_core.config import RunConfig
from dlgforge_core.dialogue import SeedTopic
from dlgforge_core.languages import base_code
from dlgforge_core.planning.seeds import SeedBatch

_TAG = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*")


@lru_cache(maxsize=1024)
def canonical(language: str) -> str:
    """Return a language as it is compared: "en-us" for "en_US" and "EN-us"; names without regard to case."""
    if _TAG.fullmatch(language):
        return language.replace("_", "-").lower()
    return " ".join(language.casefold().split())


def topics_for(batch: SeedBatch, language: str, fallback: str = "") -> tuple[SeedTopic, ...]:
    """Return a batch's topics for a target language: its own, its base language's, or the fallback's."""
    taken = _taken(batch, language, fallback)
    return tuple(topic for topic in batch.topics if canonical(topic.language) == taken) if taken else ()


def _taken(batch: SeedBatch, language: str, fallback: str) -> str:
    """Which of the batch's languages, in canonical form, `language` takes; empty when there is none."""
    known = [canonical(name) for name in batch.languages]
    if (own := canonical(language)) in known:
        return own
    base = base_code(language)
    for name in batch.languages:
        if base_code(name) == base:
            return canonical(name)
    return canonical(fallback) if fallback and canonical(fallback) in known else ""


def unused_languages(batch: SeedBatch, targets: Sequence[str], fallback: str = "") -> dict[str, str]:
    """Languages of a batch that no target takes although one is a kind of the same, and that target.

    Topics in "en-US" beside others in "en" are such ones in a run that asks for "en" alone.
    """
    taken = {_taken(batch, language, fallback) for language in targets}
    by_base = {base_code(target): target for target in reversed(targets)}
    return {
        language: by_base[base_code(language)]
        for language in batch.languages
        if canonical(language) not in taken and base_code(language) in by_base
    }


def unused_note(language: str, target: str) -> str:
    """Return what is told of one of `unused_languages`."""
    return (
        f"the topics in {language!r} are not used: run.target_languages has {target!r}, and there are topics "
        f"in just that; add {language!r} to run.target_languages, or write {target!r} in the seed file"
    )


def unused_topics(batches: Sequence[SeedBatch], run: RunConfig) -> list[str]:
    """Of batches that were just read: where there are `unused_languages`, and what would be right."""
    return [
        f"{batch.places.get(language, batch.name)}: {unused_note(language, target)}"
        for batch in batches
        for language, target in unused_languages(batch, run.target_languages, run.fallback_language).items()
    ]
