"""Seed topics, read from files: one file is one seed batch.

YAML is a mapping language -> topic -> list of questions (a topic may have none). JSONL has one topic a line:
`language` and `topic`, and if wanted `id`, `question` and `metadata`. Every pair of topic and question is one
seed topic. What is wrong with a file is said with its line; the good lines are kept unless `strict` is set.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from dlgforge_core.common import yaml_source
from dlgforge_core.common.hints import hint
from dlgforge_core.common.invisible import is_visible, skeleton, tidy
from dlgforge_core.common.yaml_source import Listing, Node, Scalar, bad_character, shown
from dlgforge_core.dialogue import SeedTopic
from dlgforge_core.errors import SeedError

SUFFIXES = (".yaml", ".yml", ".jsonl")
MAX_LINE_BYTES = 1024 * 1024
MAX_TOPIC_CHARS = 500
MAX_QUESTION_CHARS = 10_000
MAX_ID_CHARS = 200
_MAX_PROBLEMS = 100
_PROBLEMS_SHOWN = 20
_MAX_NAME_CHARS = 80
_LINE_KEYS = ("id", "language", "topic", "question", "metadata")
_LANGUAGE = re.compile(r"[^\W\d_][\w ()'-]{0,58}[\w)]?")  # a code, or a dialect by name


@dataclass(frozen=True, slots=True)
class SeedBatch:
    """The seed topics of one file.

    `digest` is the hex SHA-256 of the content with line ends normalised. `problems` says, a line each, what
    was left out and why. `places` has, of a batch read from a file, the file and line where the topics of
    each language begin.
    """

    name: str
    digest: str
    topics: tuple[SeedTopic, ...]
    problems: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that have topics, in the order of the file."""
        return tuple(dict.fromkeys(topic.language for topic in self.topics))


def read_seeds(path: str = "", *, strict: bool = False) -> list[SeedBatch]:
    """Return the seed batch in the file at `path`, or with an empty path the shipped ones.

    For a folder or an address there is `seed_folder.read_seed_batches`. Raises SeedError.
    """
    return [read_seed_file(path, strict=strict)] if path else _shipped_seeds(strict)


def read_seed_file(path: str | Path, *, strict: bool = False) -> SeedBatch:
    """Return the seed batch in one file.

    Raises SeedError when the file cannot be read, has no good topic, or, with `strict`, has any problem.
    """
    where = Path(path)
    if not where.exists():
        raise SeedError(f"{where}: no such file or folder")
    return parse_seed_batch(where.name, yaml_source.read_bytes(where), label=str(where), strict=strict)


def parse_seed_batch(file_name: str, data: bytes, *, label: str = "", strict: bool = False) -> SeedBatch:
    """Return the seed batch in the content of a file called `file_name`, wherever it was fetched from.

    `label` names the file in messages. Raises SeedError as `read_seed_file` does.
    """
    label = label or file_name
    suffix = Path(file_name).suffix.lower()
    if suffix not in SUFFIXES:
        raise SeedError(f"{label}: not a seed file; seed files end in {', '.join(SUFFIXES)}")
    data = yaml_source.normalise(data, label)
    reader = _Reader(label, batch_name(file_name))
    if suffix == ".jsonl":
        for number, line in enumerate(data.split(b"\n"), start=1):
            if line.strip():
                reader.take_line(number, line)
    else:
        reader.take_document(yaml_source.parse_yaml(data, label))
    problems = reader.all_problems()
    if not reader.topics:
        raise SeedError(_summary(f"{label} holds no usable seed topic", problems))
    if strict and problems:
        raise SeedError(_summary(f"{label} has bad entries, and strict is set", problems))
    return SeedBatch(
        name=reader.batch,
        digest=yaml_source.content_digest(data),
        topics=tuple(reader.topics),
        problems=problems,
        places=reader.places,
    )


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


class _Bad(Exception):
    """An entry that cannot be used; the message says key, value and what would be right."""


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
    places: dict[str, str] = field(default_factory=dict)

    def all_problems(self) -> tuple[str, ...]:
        if not self.unlisted:
            return tuple(self.problems)
        return (*self.problems, f"{self.label}: {self.unlisted} more problems")

    def problem(self, line: int, text: str) -> None:
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(f"{self.label}:{line}: {text}")
        else:
            self.unlisted += 1

    def take_line(self, number: int, line: bytes) -> None:
        """One line of JSONL."""
        try:
            data = _json_object(line)
            metadata = data.get("metadata")
            if metadata is not None:
                _check_metadata(metadata)
            self._add(
                number,
                _language(data.get("language")),
                _text("topic", data.get("topic"), MAX_TOPIC_CHARS),
                None
                if data.get("question") is None
                else _text("question", data["question"], MAX_QUESTION_CHARS),
                None if data.get("id") is None else _text("id", data["id"], MAX_ID_CHARS),
                metadata,
            )
        except _Bad as bad:
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
                language = _language(key.text)
                if not isinstance(topics, yaml_source.Mapping) or not topics.pairs:
                    raise _Bad(
                        f"{language} is {_kind(topics)}; it must be a mapping topic -> list of questions "
                        "(a topic without questions is written `topic:`)"
                    )
            except _Bad as bad:
                self.problem(key.line, str(bad))
                continue
            for topic, questions in self._unrepeated(topics, f"{language}: topic"):
                self._take_topic(language, topic, questions)

    def _take_topic(self, language: str, key: Scalar, questions: Node) -> None:
        try:
            topic = _text("topic", key.text, MAX_TOPIC_CHARS)
        except _Bad as bad:
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
                self._add(item.line, language, topic, question)
            except _Bad as bad:
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

    def _add(
        self,
        line: int,
        language: str,
        topic: str,
        question: str | None,
        id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        topic = " ".join(tidy(topic).split())
        first = None
        if id is None:
            id = topic_id(language, topic, question)
            # Two that look the same are one, whatever stands in them that nobody sees.
            look = (language, skeleton(topic), skeleton(question or ""))
            first = self.lines_by_look.get(look)
            self.lines_by_look.setdefault(look, line)
        if (first := self.lines_by_id.get(id, first)) is not None:
            raise _Bad(f"id = {shown(id)}: line {first} is the same topic or has the same id")
        self.lines_by_id[id] = line
        self.places.setdefault(language, f"{self.label}:{line}")
        self.topics.append(SeedTopic(id, language, topic, question, self.batch, metadata or {}))


def _json_object(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise _Bad(f"the line has {len(line)} bytes; a line may have {MAX_LINE_BYTES} at most")
    try:
        line.decode("utf-8")
        data = orjson.loads(line)
    except UnicodeDecodeError as error:
        raise _Bad(f"byte 0x{line[error.start]:02x} is not UTF-8; write the line in UTF-8") from None
    except orjson.JSONDecodeError as error:
        raise _Bad(f"not valid JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(data, dict):
        raise _Bad(
            f"{shown(data)} is no object; a line looks like "
            '{"language": "en", "topic": "home repair", "question": "..."}'
        )
    for key in data:
        if key not in _LINE_KEYS:
            raise _Bad(f"{shown(key)}: unknown key; {hint(key, _LINE_KEYS)}")
    return data


def _language(value: object) -> str:
    language = _text("language", value, MAX_ID_CHARS)
    if not _LANGUAGE.fullmatch(language):
        raise _Bad(
            f"language = {shown(language)} is not a language; it looks like 'en', 'pt-BR' or 'Gulf Arabic'"
        )
    return language


def _text(key: str, value: object, max_chars: int) -> str:
    if value is None:
        raise _Bad(f"{key} is missing; it must be text")
    if not isinstance(value, str):
        raise _Bad(f"{key} = {shown(value)} is not text; put it in quotes")
    if bad := bad_character(value):
        raise _Bad(f"{key} {bad}")
    # One form of each accented letter, so that the same topic has the same id whatever wrote the file.
    text = unicodedata.normalize("NFC", value).strip()
    if not text:
        raise _Bad(f"{key} = {shown(value)} is empty; it must be text")
    if not is_visible(text):
        raise _Bad(f"{key} = {ascii(text)[:60]} has no character that can be seen; it must be text")
    if len(text) > max_chars:
        raise _Bad(f"{key} has {len(text)} characters; it may have {max_chars} at most")
    return text


def _yaml_question(item: Node) -> str:
    if not isinstance(item, Scalar):
        raise _Bad(f"a question is {_kind(item)}; put a question that holds ': ' in quotes")
    return _text("question", item.text, MAX_QUESTION_CHARS)


def _check_metadata(value: object) -> None:
    if not isinstance(value, dict):
        raise _Bad(f"metadata = {shown(value)} is no object; it must be an object")
    # Walked without recursion: the parser allows more levels than Python's stack.
    waiting: list[object] = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting.extend([*part.keys(), *part.values()])
        elif isinstance(part, list):
            waiting.extend(part)
        elif isinstance(part, str) and "\0" in part:
            raise _Bad("metadata holds the control character U+0000; remove it")
        elif isinstance(part, float) and not math.isfinite(part):  # pragma: no cover - orjson refuses these
            raise _Bad("metadata holds a number that is not finite")


def _kind(node: Node) -> str:
    if isinstance(node, Scalar):
        return "empty" if node.text is None else f"the text {shown(node)}"
    return shown(node)
