"""Records of seed files: what a row of a table, or a line of JSONL, says of its topic or conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dlgforge_core.config import SeedsConfig
from dlgforge_core.planning.seed_conversations import conversation_key, messages_of
from dlgforge_core.planning.seed_entries import (
    MAX_ID_CHARS,
    MAX_QUESTION_CHARS,
    MAX_TOPIC_CHARS,
    check_metadata,
    language_of,
    text_of,
)


@dataclass(frozen=True, slots=True)
class SeedRecord:
    """A topic, with an example of a question if there is one, or a conversation, whose topic may be empty."""

    language: str
    topic: str
    question: str | None = None
    id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, str], ...] = ()


def record_of_line(data: Mapping[str, Any]) -> SeedRecord:
    """Return what a line of JSONL says. Raises BadEntryError."""
    key, metadata = conversation_key(data), data.get("metadata")
    if metadata is not None:
        check_metadata(metadata)
    language = language_of(data.get("language"))
    topicless = key is not None and data.get("topic") is None
    return SeedRecord(
        language,
        "" if topicless else text_of("topic", data.get("topic"), MAX_TOPIC_CHARS),
        None if data.get("question") is None else text_of("question", data["question"], MAX_QUESTION_CHARS),
        None if data.get("id") is None else text_of("id", data["id"], MAX_ID_CHARS),
        metadata or {},
        messages_of(key, data[key]) if key is not None else (),
    )


def record_of_row(values: Mapping[str, Any], config: SeedsConfig) -> SeedRecord:
    """Return what a row says, in the columns that the configuration names. Raises BadEntryError."""
    names = config.columns.named
    found = {key: values.get(name) for key, name in names.items()}
    called = {key: key if name == key else f"{key} (column {name!r})" for key, name in names.items()}
    if isinstance(found["id"], int) and not isinstance(found["id"], bool):
        found["id"] = str(found["id"])

    def text(key: str, most: int) -> str | None:
        return None if found[key] in (None, "") else text_of(called[key], found[key], most)

    conversation = _conversation_column(values, config)
    left_out = {*names.values(), conversation}
    rest = {name: value for name, value in values.items() if name not in left_out}
    if isinstance(rest.get("metadata"), dict):
        rest = {**rest.pop("metadata"), **rest}
    check_metadata(rest)
    topicless = conversation is not None and found["topic"] in (None, "")
    return SeedRecord(
        language_of(found["language"] or config.language or None, called["language"]),
        "" if topicless else text_of(called["topic"], found["topic"], MAX_TOPIC_CHARS),
        text("question", MAX_QUESTION_CHARS),
        text("id", MAX_ID_CHARS),
        rest,
        messages_of(conversation, values[conversation]) if conversation is not None else (),
    )


def _conversation_column(values: Mapping[str, Any], config: SeedsConfig) -> str | None:
    """Return the column of a row's conversation; None without one.

    Where none is named, a row that has a topic is on that, whatever else is in it.
    """
    if name := config.columns.messages:
        return name if values.get(name) else None
    return None if values.get(config.columns.topic) else conversation_key(values)
