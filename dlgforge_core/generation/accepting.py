"""Acceptance as a configuration asks for it, with the checks that it names."""

from __future__ import annotations

import functools

from dlgforge_core.config import GenerationConfig, MarkupConfig
from dlgforge_core.conversation.acceptance import Acceptance, no_checks


def acceptance_of(generation: GenerationConfig, markup: MarkupConfig) -> Acceptance | None:
    """Return what finished dialogues must be like; None when all of them count."""
    accept = generation.run.accept
    if not accept.active:
        return None
    # A quarter of a second at the start of each worker, for those alone that accept.
    from dlgforge_core.quality.findings import problems_of
    from dlgforge_core.quality.leaks import phrases_of

    languages = tuple(generation.run.target_languages)
    checks = functools.partial(
        problems_of,
        languages=languages,
        names=frozenset(accept.checks),
        markup=markup,
        phrases=phrases_of(generation.prompts, generation.conversation),
    )
    return Acceptance(accept, generation.judge, checks if accept.checks else no_checks)
