"""What must not leave this machine: secrets, its paths, and results longer than a reader wants."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from dlgforge_core.common.secrets import can_be_secret, password_of, redact
from dlgforge_core.dialogue import Candidate, Dialogue, Evidence, Turn, TurnDetails
from dlgforge_core.sources import SeedTopic
from dlgforge_core.state_changes import Change
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.verdicts import GoalVerdict, Judgement, JudgeVerdict

MAX_TOOL_TEXT_CHARS = 4_000
SECRET = "[secret]"
_SECRET_VARIABLES = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|DSN", re.IGNORECASE)
# The shapes of common keys, for what comes from tools; exact secrets of this process go everywhere.
_KEY_SHAPES = re.compile(
    r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}|\bhf_[A-Za-z0-9]{16,}|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bxox[abp]-[A-Za-z0-9-]{10,}"
    r"|(?<=Bearer )[A-Za-z0-9._~+/-]{12,}=*|(?<=://)[^\s/:@]+:[^\s/@]+(?=@)"
    r"|(?i:(?<=api_key=)|(?<=api-key: )|(?<=apikey=)|(?<=token=)|(?<=password=))[^\s&\"',;]{4,}"
)
_HOMES = re.compile(
    r"(?<![\w.:/])(?:/home/|/Users/|/root/)[^\s\"'<>`|,;]*|\b[A-Za-z]:\\Users\\[^\s\"'<>`|,;]*"
)
_ANY_PATH = re.compile(
    r"(?<![\w.:/])(?:file://)?/(?:[\w.@%+~-]+/)+[\w.@%+~-]*|\b[A-Za-z]:\\(?:[\w.@%+ ~-]+\\)*[\w.@%+~-]*"
)


def secrets_of(environment: Mapping[str, str], names: Iterable[str] = ()) -> set[str]:
    """Return the values of `environment` that are secrets, by the names of their variables or by `names`.

    Plain words are left out: a password like "postgres" would be struck from every dialogue.
    """
    named, found = set(names), set[str]()
    for name, value in environment.items():
        if name in named or _SECRET_VARIABLES.search(name):
            found.add(value)
            if "://" in value:
                found.add(password_of(value))
    return {value for value in found if can_be_secret(value)}


def machine_folders(*more: Path) -> set[str]:
    """Folders whose names tell of this machine: the current one, the home, and `more`."""
    folders = {Path.cwd(), *(path.absolute() for path in more)}
    if home := os.environ.get("HOME"):
        folders.add(Path(home))
    return {str(folder) for folder in folders if len(folder.parts) > 2}  # not "/" and "/root"


class Scrubber:
    """Takes `secrets`, paths in `folders` and over-long tool results out of dialogues."""

    def __init__(self, secrets: Iterable[str] = (), folders: Iterable[str] = ()) -> None:
        self._secrets = tuple(sorted(set(secrets), key=lambda secret: (-len(secret), secret)))
        self._folders = _any_of(folders, r"(?<![\w.]){}(?:/[^\s\"'<>`|]*|(?![\w.-]))")

    def text(self, text: str) -> str:
        """`text` without a secret of this process or a path of this machine."""
        text = redact(text, self._secrets, SECRET)
        if self._folders is not None:
            text = self._folders.sub(lambda found: last_part(found[0]), text)
        return text

    def foreign_text(self, text: str) -> str:
        """As `text`, without anything that looks like a key or lies in a home folder."""
        return _HOMES.sub(lambda found: last_part(found[0]), _KEY_SHAPES.sub(SECRET, self.text(text)))

    def tool_text(self, text: str) -> str:
        """As `foreign_text`, and cut when long."""
        text = self.foreign_text(text)
        return text if len(text) <= MAX_TOOL_TEXT_CHARS else text[:MAX_TOOL_TEXT_CHARS].rstrip() + "…"

    def error(self, text: str) -> str:
        """As `tool_text`, without any absolute path: a message of ours or a library's, no training text."""
        return self.tool_text(_ANY_PATH.sub(lambda found: last_part(found[0]), text))

    def dialogue(self, dialogue: Dialogue) -> Dialogue:
        """`dialogue` as it may be exported; call ids are numbered anew, and unique within it."""
        plan = dialogue.plan
        topic = SeedTopic(
            self.text(plan.topic.id),
            plan.topic.language,
            self.text(plan.topic.topic),
            None,
            self.text(last_part_if_absolute(plan.topic.batch)),
            self._arguments(plan.topic.metadata),
        )
        turns = []
        n_calls = 0
        for turn in dialogue.turns:
            turns.append(self._turn(turn, n_calls))
            n_calls += len(turn.details.tools)
        return replace(
            dialogue,
            plan=replace(
                plan,
                topic=topic,
                system_prompt=self.text(plan.system_prompt),
                goal=self.text(plan.goal),
                tool_state=self._arguments(plan.tool_state),
                attributes={name: self.text(value) for name, value in plan.attributes.items()},
            ),
            turns=tuple(turns),
            judgement=self._judgement(dialogue.judgement),
            goal=self._goal(dialogue.goal),
            by_judge=tuple(map(self._verdict, dialogue.by_judge)),
            marks=tuple(
                replace(mark, label=self.text(mark.label), comment=self.text(mark.comment))
                for mark in dialogue.marks
            ),
            models={role: self.text(last_part_if_absolute(model)) for role, model in dialogue.models.items()},
        )

    def _turn(self, turn: Turn, n_calls: int) -> Turn:
        details = turn.details
        if details != TurnDetails():
            details = self._details(details, n_calls)
        return replace(
            turn,
            user=self.text(turn.user),
            assistant=self.text(turn.assistant),
            judgement=self._judgement(turn.judgement),
            details=details,
        )

    def _details(self, details: TurnDetails, n_calls: int) -> TurnDetails:
        return replace(
            details,
            evidence=tuple(map(self._evidence, details.evidence)),
            tools=tuple(self._tool(event, n_calls + i) for i, event in enumerate(details.tools)),
            reasoning=self.tool_text(details.reasoning),
            opening=self.text(details.opening),
            opening_reasoning=self.tool_text(details.opening_reasoning),
            call_reasoning=tuple(map(self.tool_text, details.call_reasoning)),
            candidates=tuple(self._candidate(one, n_calls) for one in details.candidates),
        )

    def _candidate(self, one: Candidate, n_calls: int) -> Candidate:
        return replace(
            one,
            answer=self.text(one.answer),
            judgement=self._judgement(one.judgement),
            model=self.text(last_part_if_absolute(one.model)),
            details=self._details(one.details, n_calls),
        )

    def _judgement(self, judgement: Judgement | None) -> Judgement | None:
        return self._scrubbed(judgement) if judgement is not None else None

    def _scrubbed(self, judgement: Judgement) -> Judgement:
        return replace(judgement, comment=self.text(judgement.comment), goal=self._goal(judgement.goal))

    def _goal(self, verdict: GoalVerdict | None) -> GoalVerdict | None:
        return replace(verdict, reason=self.text(verdict.reason)) if verdict is not None else None

    def _verdict(self, verdict: JudgeVerdict) -> JudgeVerdict:
        judgement = self._scrubbed(verdict.judgement)
        return replace(verdict, judge=self.text(last_part_if_absolute(verdict.judge)), judgement=judgement)

    def _evidence(self, evidence: Evidence) -> Evidence:
        return replace(
            evidence,
            document=self.text(relative_name(evidence.document)),
            chunk_id=self.text(last_part_if_absolute(evidence.chunk_id)),
            text=self.foreign_text(evidence.text),
        )

    def _tool(self, event: ToolEvent, number: int) -> ToolEvent:
        return ToolEvent(
            name=event.name,
            arguments=self._arguments(event.arguments),
            result=self.tool_text(event.result),
            error=self.error(event.error),
            problem=event.problem,
            changes=tuple(map(self._change, event.changes)),
            # Nine letters and digits: the strictest chat templates (Mistral's) take no other.
            call_id=f"call{number:05d}",
        )

    def _change(self, change: Change) -> Change:
        if "value" not in change:
            return change
        secret = _SECRET_VARIABLES.search(str(change["path"]).rpartition("/")[2])
        return {**change, "value": SECRET if secret else self._arguments(change["value"])}

    def _arguments(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.tool_text(value)
        if isinstance(value, Mapping):
            return {
                str(key): SECRET if _SECRET_VARIABLES.search(str(key)) else self._arguments(item)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._arguments(item) for item in value]
        return value


def _any_of(texts: Iterable[str], pattern: str) -> re.Pattern[str] | None:
    longest_first = sorted(set(texts) - {""}, key=lambda text: (-len(text), text))
    return (
        re.compile("|".join(pattern.format(re.escape(text)) for text in longest_first))
        if longest_first
        else None
    )


def last_part(path: str) -> str:
    """Return the name at the end of a path, of whatever system."""
    return PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name


@lru_cache(maxsize=4096)  # names of models, batches and documents come again and again
def last_part_if_absolute(name: str) -> str:
    """Shorten a name that is an absolute path to its last part: the rest is of some machine."""
    if "://" in name or PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute():
        return last_part(name)
    return name


def relative_name(document: str) -> str:
    """Return a document's name within its folder; of an absolute path or a URL only the last part."""
    name = last_part_if_absolute(document)
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))
