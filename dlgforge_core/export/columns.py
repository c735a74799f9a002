"""The columns that not every dataset has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionalColumns:
    """Which columns a dataset has besides those that every one has.

    `seed_metadata`: the metadata of seed topics; `system`: system messages, where a format has them apart;
    `attributes`: those that are columns; `conversation`: the columns of who ended dialogues, and of goals,
    see `ConversationConfig.columns`; `dimensions`: those that verdicts rate, fields of their columns;
    `candidates`: turns may have several answers; `final_state`: tools have a state; `marks`: those of
    reviewers.
    """

    seed_metadata: bool = False
    system: bool = False
    attributes: Sequence[str] = ()
    conversation: Sequence[str] = ()
    dimensions: Sequence[str] = ()
    candidates: bool = False
    final_state: bool = False
    marks: bool = False


NO_OPTIONAL_COLUMNS = OptionalColumns()
