"""Languages of seed topics and of a run: which topics a target language takes, and which nobody takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from dlgforge_core.config import GenerationConfig, RunConfig
from dlgforge_core.languages import base_code
from dlgforge_core.planning.seeds import SeedBatch
from dlgforge_core.sources import SeedTopic

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


def seeds_for(batch: SeedBatch, language: str, generation: GenerationConfig) -> tuple[SeedTopic, ...]:
    """Return what a batch has for a target language: topics or, with `conversation.from_seed`, conversations.

    Those that are to be translated are in other languages; others are taken as `topics_for` takes topics.
    """
    fallback, wanted = generation.run.fallback_language, generation.conversation.from_seed
    if wanted is None:
        on_topics = replace(batch, topics=tuple(topic for topic in batch.topics if topic.topic))
        # Nothing is made of their conversations.
        return tuple(replace(topic, messages=()) for topic in topics_for(on_topics, language, fallback))
    conversations = tuple(topic for topic in batch.topics if topic.messages)
    if wanted == "translate":
        return tuple(topic for topic in conversations if canonical(topic.language) != canonical(language))
    return topics_for(replace(batch, topics=conversations), language, fallback)


def unused_seeds(batch: SeedBatch, generation: GenerationConfig) -> list[str]:
    """Return a note on the seeds of a batch that `conversation.from_seed` leaves out."""
    wanted, n = generation.conversation.from_seed, len(batch.topics)
    if wanted is None:
        left = sum(not topic.topic for topic in batch.topics)
        why = "are conversations, and are not used; set conversation.from_seed"
    else:
        left = sum(not topic.messages for topic in batch.topics)
        why = f"hold no conversation for conversation.from_seed = {wanted}, and are not used"
    return [f"seed batch {batch.name!r}: {left} of {n} seeds {why}"] if left else []


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
        f"{batch.locations.get(language, batch.name)}: {unused_note(language, target)}"
        for batch in batches
        for language, target in unused_languages(batch, run.target_languages, run.fallback_language).items()
    ]
