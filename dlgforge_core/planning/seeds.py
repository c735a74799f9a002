"""Seed topics, read from files: one file is one seed batch.

YAML is a mapping language -> topic -> list of questions (a topic may have none). JSONL has one topic a line:
`language` and `topic`, and if wanted `id`, `question` and `metadata`, or a conversation (`messages` or
`conversations`), whose topic may be left out. JSON, CSV, TSV and Parquet are tables:
a topic a row, in the columns that `seeds.columns` names; what else is there is metadata. Every pair of topic
and question is one seed topic. What is wrong with a file is told with its line; good ones are kept unless
`strict` is set.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from dlgforge_core.common import yaml_source
from dlgforge_core.common.hints import hint
from dlgforge_core.common.invisible import skeleton, tidy
from dlgforge_core.common.yaml_source import Listing, Node, Scalar, shown
from dlgforge_core.config import SeedsConfig
from dlgforge_core.errors import SeedError
from dlgforge_core.planning.seed_conversations import KEYS, conversation_id
from dlgforge_core.planning.seed_entries import (
    MAX_QUESTION_CHARS,
    MAX_TOPIC_CHARS,
    BadEntryError,
    json_object,
    language_of,
    text_of,
)
from dlgforge_core.planning.seed_records import SeedRecord, record_of_line, record_of_row
from dlgforge_core.planning.seed_tables import TABLE_SUFFIXES, Table, normalised, read_table
from dlgforge_core.sources import SeedTopic

SUFFIXES = (".yaml", ".yml", ".jsonl", *TABLE_SUFFIXES)
DEFAULT = SeedsConfig()
_MAX_PROBLEMS = 100
_PROBLEMS_SHOWN = 20
_MAX_NAME_CHARS = 80


@dataclass(frozen=True, slots=True)
class SeedBatch:
    """The seed topics of one file.

    `digest` is the hex SHA-256 of the content with line ends normalised. `problems` says, a line each, what
    was left out and why. `locations` has, of a batch read from a file, the file and line where the topics of
    each language begin.
    """

    name: str
    digest: str
    topics: tuple[SeedTopic, ...]
    problems: tuple[str, ...] = ()
    locations: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that have topics, in the order of the file."""
        return tuple(dict.fromkeys(topic.language for topic in self.topics))


def read_seeds(path: str = "", *, strict: bool = False, config: SeedsConfig = DEFAULT) -> list[SeedBatch]:
    """Return the seed batch in the file at `path`, or with an empty path the shipped ones.

    For a folder or an address there is `seed_folder.read_seed_batches`. Raises SeedError.
    """
    return [read_seed_file(path, strict=strict, config=config)] if path else _shipped_seeds(strict)


def read_seed_file(path: str | Path, *, strict: bool = False, config: SeedsConfig = DEFAULT) -> SeedBatch:
    """Return the seed batch in one file; `config` says which columns of a table hold what.

    Raises SeedError when the file cannot be read, has no good topic, or, with `strict`, has any problem.
    """
    where = Path(path)
    if not where.exists():
        raise SeedError(f"{where}: no such file or folder")
    data = yaml_source.read_bytes(where)
    return parse_seed_batch(where.name, data, label=str(where), strict=strict, config=config)


def parse_seed_batch(
    file_name: str, data: bytes, *, label: str = "", strict: bool = False, config: SeedsConfig = DEFAULT
) -> SeedBatch:
    """Return the seed batch in the content of a file called `file_name`, wherever it was fetched from.

    `label` names the file in messages. Raises SeedError as `read_seed_file` does.
    """
    label = label or file_name
    suffix = Path(file_name).suffix.lower()
    if suffix not in SUFFIXES:
        raise SeedError(f"{label}: not a seed file; seed files end in {', '.join(SUFFIXES)}")
    data = normalised(file_name, data, label)
    reader = _Reader(label, batch_name(file_name))
    if suffix in TABLE_SUFFIXES:
        reader.take_table(read_table(file_name, data, label), config)
    elif suffix == ".jsonl":
        for number, line in enumerate(data.split(b"\n"), start=1):
            if line.strip():
                reader.take_line(number, line, config)
    else:
        reader.take_document(yaml_source.parse_yaml(data, label))
    problems = reader.all_problems()
    if not reader.topics:
        raise SeedError(_summary(f"{label} holds no usable seed topic", problems))
    if strict and problems:
        raise SeedError(_summary(f"{label} has bad entries, and strict is set", problems))
    return SeedBatch(
        name=reader.batch,
        digest=_digest(data, config if suffix in (".jsonl", *TABLE_SUFFIXES) else DEFAULT),
        topics=tuple(reader.topics),
        problems=problems,
        locations=reader.locations,
    )


def _digest(data: bytes, config: SeedsConfig) -> str:
    """Return the digest of a content; other columns make other topics of it."""
    digest = yaml_source.content_digest(data)
    if not config.mapped:
        return digest
    conversation = {"messages": config.columns.messages} if config.columns.messages else {}
    mapping = {**config.columns.named, **conversation, "of rows": config.language}
    return yaml_source.content_digest(f"{digest} {json.dumps(mapping, sort_keys=True)}".encode())


def batch_name(file_name: str) -> str:
    """Return the name of the seed batch in a file: its stem, safe as a partition key and as a folder name."""
    stem = unicodedata.normalize("NFC", Path(file_name).stem)
    # Dagster refuses "..." in partition keys and separates dimensions with "|".
    name = re.sub(r"\.{2,}", ".", re.sub(r"[^\w.-]+", "-", stem)).strip("-.")
    if not name or len(name) > _MAX_NAME_CHARS:
        tail = hashlib.sha256(stem.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        name = f"{name[:_MAX_NAME_CHARS] or 'batch'}-{tail}"
    return name


def topic_id(language: str, topic: str, question: str | None) -> str:
    """Return the id of a topic that names none: 16 hex digits, the same wherever the same topic is read."""
    content = json.dumps([language, topic, question], ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def _shipped_seeds(strict: bool) -> list[SeedBatch]:
    folder = resources.files("dlgforge_core") / "data" / "seeds"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(SUFFIXES)), key=lambda f: f.name)
    return [parse_seed_batch(f.name, f.read_bytes(), strict=strict) for f in files]


def _summary(head: str, problems: tuple[str, ...]) -> str:
    lines = [*problems[:_PROBLEMS_SHOWN]]
    if len(problems) > _PROBLEMS_SHOWN:
        lines.append(f"... and {len(problems) - _PROBLEMS_SHOWN} more")
    return "\n  ".join([f"{head}:", *lines])


@dataclass
class _Reader:
    """Collects the topics of one file and what was wrong with the rest."""

    label: str
    batch: str
    topics: list[SeedTopic] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unlisted: int = 0
    lines_by_id: dict[str, int] = field(default_factory=dict)
    lines_by_look: dict[tuple[str, str, str], int] = field(default_factory=dict)
    locations: dict[str, str] = field(default_factory=dict)
    unit: str = "line"
    """What numbers count."""

    def all_problems(self) -> tuple[str, ...]:
        if not self.unlisted:
            return tuple(self.problems)
        return (*self.problems, f"{self.label}: {self.unlisted} more problems")

    def problem(self, line: int, text: str) -> None:
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(f"{self._location(line)}: {text}")
        else:
            self.unlisted += 1

    def _location(self, number: int) -> str:
        return f"{self.label}:{number}" if self.unit == "line" else f"{self.label}: {self.unit} {number}"

    def take_table(self, table: Table, config: SeedsConfig) -> None:
        """Read the rows of a table."""
        self.unit = table.unit
        if table.columns is not None:
            _check_columns(table.columns, config, self._location(1) if table.unit == "line" else self.label)
        for row in table.rows:
            if row.problem:
                self.problem(row.number, row.problem)
            else:
                self.take_row(row.number, row.values, config)

    def take_row(self, number: int, values: Mapping[str, Any], config: SeedsConfig) -> None:
        """Read one row of a table."""
        try:
            self._add(number, record_of_row(values, config))
        except BadEntryError as bad:
            self.problem(number, str(bad))

    def take_line(self, number: int, line: bytes, config: SeedsConfig) -> None:
        """One line of JSONL."""
        try:
            if config.mapped:
                self.take_row(number, json_object(line, known=()), config)
                return
            self._add(number, record_of_line(json_object(line)))
        except BadEntryError as bad:
            self.problem(number, str(bad))

    def take_document(self, root: Node) -> None:
        """Read a whole YAML document: language -> topic -> questions."""
        if not isinstance(root, yaml_source.Mapping):
            raise SeedError(
                f"{self.label}:{root.line}: the file is {_kind(root)}; it must be a mapping "
                "language -> topic -> list of questions"
            )
        for key, topics in self._unrepeated(root, "language"):
            try:
                language = language_of(key.text)
                if not isinstance(topics, yaml_source.Mapping) or not topics.pairs:
                    raise BadEntryError(
                        f"{language} is {_kind(topics)}; it must be a mapping topic -> list of questions "
                        "(a topic without questions is written `topic:`)"
                    )
            except BadEntryError as bad:
                self.problem(key.line, str(bad))
                continue
            for topic, questions in self._unrepeated(topics, f"{language}: topic"):
                self._take_topic(language, topic, questions)

    def _take_topic(self, language: str, key: Scalar, questions: Node) -> None:
        try:
            topic = text_of("topic", key.text, MAX_TOPIC_CHARS)
        except BadEntryError as bad:
            self.problem(key.line, f"{language}: {bad}")
            return
        if isinstance(questions, Scalar) and questions.text is None:
            questions = Listing((), key.line)
        if not isinstance(questions, Listing):
            self.problem(
                questions.line,
                f"{language}: {shown(topic)} is {_kind(questions)}; it must be a list of questions, "
                "each on a line of its own after `- `",
            )
            return
        for item in questions.items or (Scalar(None, key.line),):
            try:
                question = _yaml_question(item) if questions.items else None
                self._add(item.line, SeedRecord(language, topic, question))
            except BadEntryError as bad:
                self.problem(item.line, f"{language}: {shown(topic)}: {bad}")

    def _unrepeated(self, mapping: yaml_source.Mapping, what: str) -> Iterable[tuple[Scalar, Node]]:
        seen: dict[str | None, int] = {}
        for key, value in mapping.pairs:
            if key.text in seen:
                self.problem(
                    key.line,
                    f"{what} {shown(key)} stands on line {seen[key.text]} already; put both under one key",
                )
                continue
            seen[key.text] = key.line
            yield key, value

    def _add(self, line: int, record: SeedRecord) -> None:
        language, question, messages = record.language, record.question, record.messages
        topic = " ".join(tidy(record.topic).split())
        first, id = None, record.id
        if id is None:
            id = (
                conversation_id(language, topic, messages)
                if messages
                else topic_id(language, topic, question)
            )
            # Two that look the same are one, whatever stands in them that nobody sees.
            text = "\0".join(one["content"] for one in messages) if messages else question or ""
            look = (language, skeleton(topic), skeleton(text))
            first = self.lines_by_look.get(look)
            self.lines_by_look.setdefault(look, line)
        if (first := self.lines_by_id.get(id, first)) is not None:
            raise BadEntryError(f"id = {shown(id)}: {self.unit} {first} is the same topic or has the same id")
        self.lines_by_id[id] = line
        self.locations.setdefault(language, self._location(line))
        self.topics.append(SeedTopic(id, language, topic, question, self.batch, record.metadata, messages))


def _check_columns(columns: Sequence[str], config: SeedsConfig, location: str) -> None:
    """Raise SeedError when a table lacks a column that it must have, or that is named."""
    conversation = config.columns.messages
    if conversation and conversation not in columns:
        raise SeedError(
            f"{location}: there is no column {shown(conversation)} for the conversations; "
            f"{hint(conversation, columns, 'there are')}; name the right one in seeds.columns.messages"
        )
    topicless = bool(conversation) or not {*KEYS}.isdisjoint(columns)
    for key, name in config.columns.named.items():
        needed = (key == "topic" and not topicless) or (key == "language" and not config.language)
        if name in columns or not (needed or name != key):
            continue
        more = ", or set seeds.language" if key == "language" else ""
        raise SeedError(
            f"{location}: there is no column {shown(name)} for the {key}; "
            f"{hint(name, columns, 'there are')}; name the right one in seeds.columns.{key}{more}"
        )


def _yaml_question(item: Node) -> str:
    if not isinstance(item, Scalar):
        raise BadEntryError(f"a question is {_kind(item)}; put a question that holds ': ' in quotes")
    return text_of("question", item.text, MAX_QUESTION_CHARS)


def _kind(node: Node) -> str:
    if isinstance(node, Scalar):
        return "empty" if node.text is None else f"the text {shown(node)}"
    return shown(node)
