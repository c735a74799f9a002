"""Exchange with Label Studio and Argilla: dialogues as their JSON, and marks from what they export."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from dlgforge_core.common.hints import hint
from dlgforge_core.database.connection import Connection
from dlgforge_core.errors import ConfigError
from dlgforge_core.printable import printable
from dlgforge_core.review.ended import Ended, ended_dialogues, latest_judges
from dlgforge_core.review.filters import Filters
from dlgforge_core.review.listing import every
from dlgforge_core.review.marks import edits_of, mark_of, marks_of, put_mark, texts_of
from dlgforge_core.review.reviewed import as_edited
from dlgforge_core.verdicts import MAX_SCORE, Mark

Record = dict[str, Any]

LABEL_STUDIO_CONFIG = """\
<View>
  <Header value="$topic"/>
  <Paragraphs name="dialogue" value="$dialogue" layout="dialogue" nameKey="author" textKey="text"/>
  <Choices name="verdict" toName="dialogue" choice="single" required="true">
    <Choice value="good" hotkey="1"/>
    <Choice value="bad" hotkey="2"/>
  </Choices>
  <TextArea name="label" toName="dialogue" placeholder="Label" maxSubmissions="1"/>
  <TextArea name="comment" toName="dialogue" placeholder="Comment" rows="3" maxSubmissions="1"/>
  <TextArea name="reviewer" toName="dialogue" placeholder="Reviewer" maxSubmissions="1"/>
</View>
"""
"""The labelling interface that tasks are made for."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool for annotation: what it takes, and what it gives back.

    `marks` yields dialogue id, reviewer, verdict, label and comment of each that a record holds.
    """

    name: str
    record: Callable[[Ended, Sequence[Mark]], Record]
    is_record: Callable[[Record], bool]
    marks: Callable[[Record], Iterable[tuple[str, str, str, str, str]]]


@dataclass(slots=True)
class Imported:
    """What came of an import: marks kept, records without a verdict, and dialogues that are not here."""

    marks: int = 0
    without_verdict: int = 0
    unknown: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """Return it in words."""
        found = [f"marks kept: {self.marks}"]
        if self.without_verdict:
            found.append(f"records without a verdict: {self.without_verdict}")
        if self.unknown:
            some = ", ".join(self.unknown[:5]) + (", ..." if len(self.unknown) > 5 else "")
            found.append(f"marks of dialogues that are not in this database: {len(self.unknown)} ({some})")
        return found


def exported(connection: Connection, tool: Tool, filters: Filters, reviewer: str = "") -> Iterator[bytes]:
    """Yield the JSON of the dialogues that pass the filters and have messages, as edited, in pieces."""
    judges, separator = latest_judges(connection), b"[\n"
    for ids in every(connection, filters, reviewer):
        marks, edits = marks_of(connection, ids), edits_of(connection, ids)
        for one in ended_dialogues(connection, ids, judges):
            if not one.dialogue.turns:
                continue
            edited = as_edited(one.dialogue, texts_of(edits.get(one.dialogue_id, {})))
            yield separator + orjson.dumps(
                tool.record(replace(one, dialogue=edited), marks.get(one.dialogue_id, []))
            )
            separator = b",\n"
    yield b"[]\n" if separator == b"[\n" else b"\n]\n"


def import_marks(connection: Connection, content: bytes, source: str, reviewer: str = "") -> Imported:
    """Keep the marks in the JSON that a tool has exported, all or none of them.

    `reviewer` is in place of the names in it. Raises ConfigError that names `source`, the record and what is
    wrong.
    """
    done = Imported()
    with connection.transaction():
        for number, record in enumerate(_records(content, source), start=1):
            where = f"{source}, record {number}"
            tool = next((tool for tool in TOOLS.values() if tool.is_record(record)), None)
            if tool is None:
                raise ConfigError(
                    f"{where}: it has neither 'data', as of Label Studio, nor 'fields', as of Argilla"
                )
            try:
                found = list(tool.marks(record))
                marks = [(id_, mark_of(reviewer or name, *texts)) for id_, name, *texts in found]
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise ConfigError(f"{where} is not as {tool.name} exports it: {error!r}") from None
            done.without_verdict += not marks
            for dialogue_id, mark in marks:
                if "\0" not in dialogue_id and put_mark(connection, dialogue_id, mark):
                    done.marks += 1
                else:
                    done.unknown.append(printable(dialogue_id[:80]))
    return done


def _records(content: bytes, source: str) -> list[Record]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is not JSON: {error}") from None
    if not isinstance(data, list) or not all(isinstance(record, dict) for record in data):
        raise ConfigError(f"{source} is not a list of records, as Label Studio and Argilla export it")
    return data


def _messages(one: Ended, who: str, text: str) -> list[Record]:
    system = one.dialogue.plan.system_prompt
    messages = [message for turn in one.dialogue.turns for message in turn.messages]
    if system:
        messages.insert(0, ("system", system))
    return [{who: role, text: content} for role, content in messages]


def _about(one: Ended) -> Record:
    score = one.dialogue.mean_score
    known = {
        "language": one.language,
        "topic": one.dialogue.plan.topic.topic,
        "status": one.status,
        "score": score,
        "goal": one.dialogue.plan.goal,
    }
    return {name: value for name, value in known.items() if value not in ("", None)}


def _verdict_of(score: float) -> str:
    return "good" if score >= MAX_SCORE / 2 else "bad"


# Label Studio: https://labelstud.io/guide/task_format


def _task(one: Ended, marks: Sequence[Mark]) -> Record:
    score = one.dialogue.mean_score
    predictions = []
    if score is not None:
        result = [_region("verdict", "choices", [_verdict_of(score)])]
        predictions = [{"model_version": one.judge, "score": score / MAX_SCORE, "result": result}]
    data = {
        "dialogue_id": one.dialogue_id,
        "dialogue": _messages(one, "author", "text"),
        "topic": "",
        **_about(one),
    }
    return {"data": data, "predictions": predictions, "annotations": [_annotation(mark) for mark in marks]}


def _annotation(mark: Mark) -> Record:
    texts = {"label": mark.label, "comment": mark.comment, "reviewer": mark.reviewer}
    regions = [_region(name, "textarea", [text]) for name, text in texts.items() if text]
    return {"result": [_region("verdict", "choices", [mark.verdict]), *regions]}


def _region(name: str, kind: str, values: list[str]) -> Record:
    key = "text" if kind == "textarea" else kind
    return {"from_name": name, "to_name": "dialogue", "type": kind, "value": {key: values}}


def _task_marks(record: Record) -> Iterator[tuple[str, str, str, str, str]]:
    for annotation in record.get("annotations") or ():
        if annotation.get("was_cancelled"):
            continue
        given: dict[str, str] = {}
        for region in annotation["result"]:
            value = region.get("value") or {}
            texts = value.get("choices") or value.get("text") or ()
            texts = [texts] if isinstance(texts, str) else texts
            given.setdefault(str(region.get("from_name")), "\n".join(map(str, texts)).strip())
        if verdict := given.get("verdict"):
            name = given.get("reviewer") or _annotator(annotation.get("completed_by"))
            texts = given.get("label", ""), given.get("comment", "")
            yield str(record["data"]["dialogue_id"]), name, verdict.lower(), *texts


def _annotator(who: Any) -> str:
    if isinstance(who, Mapping):
        names = " ".join(str(who[key]) for key in ("first_name", "last_name") if who.get(key))
        return names or str(who.get("email") or who.get("username") or f"Label Studio user {who.get('id')}")
    return f"Label Studio user {who}" if who is not None else "Label Studio"


# Argilla: the records of a dataset with a chat field, as `dataset.records.to_json` and `from_json` have them.


def _argilla_record(one: Ended, marks: Sequence[Mark]) -> Record:
    score, suggestions = one.dialogue.mean_score, dict[str, Record]()
    if marks:
        # Responses are of users whom Argilla knows: what was marked here is suggested there.
        mark = marks[0]
        texts = {"verdict": mark.verdict, "label": mark.label, "comment": mark.comment}
        suggestions = {
            name: {"value": text, "score": None, "agent": mark.reviewer}
            for name, text in texts.items()
            if text
        }
    elif score is not None:
        share = max(score, MAX_SCORE - score) / MAX_SCORE
        suggestions = {"verdict": {"value": _verdict_of(score), "score": share, "agent": one.judge}}
    return {
        "id": one.dialogue_id,
        "fields": {"dialogue": _messages(one, "role", "content")},
        "metadata": _about(one),
        "suggestions": suggestions,
        "responses": {},
        "vectors": {},
    }


def _argilla_marks(record: Record) -> Iterator[tuple[str, str, str, str, str]]:
    by_user: dict[str, dict[str, str]] = {}
    for question, responses in (record.get("responses") or {}).items():
        for response in responses:
            if response.get("status", "submitted") == "submitted" and response.get("value") is not None:
                given = by_user.setdefault(str(response.get("user_id")), {})
                given[question] = str(response["value"]).strip()
    for user, given in by_user.items():
        if verdict := given.get("verdict"):
            texts = given.get("label", ""), given.get("comment", "")
            yield str(record["id"]), f"Argilla user {user}", verdict.lower(), *texts


TOOLS: dict[str, Tool] = {
    "label-studio": Tool("Label Studio", _task, lambda record: "data" in record, _task_marks),
    "argilla": Tool("Argilla", _argilla_record, lambda record: "fields" in record, _argilla_marks),
}
"""The tools by their names in addresses and commands."""


def tool_of(name: str) -> Tool:
    """Return a tool by its name. Raises ConfigError."""
    if name not in TOOLS:
        raise ConfigError(f"there is no export for {name!r}; {hint(name, list(TOOLS), 'choose from')}")
    return TOOLS[name]
