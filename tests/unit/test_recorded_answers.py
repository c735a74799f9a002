"""Recorded dialogues are said again, from the first question to the last verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.simulated.recorded import USER_SIMULATOR, RecordedAnswers

PATH = Path(__file__).resolve().parents[1] / "support" / "recorded" / "answers.json"
DIALOGUES: list[dict[str, Any]] = json.loads(PATH.read_text("utf-8"))["dialogues"]


@pytest.mark.parametrize(
    "dialogue", DIALOGUES, ids=[f"{n} {one['topic']}" for n, one in enumerate(DIALOGUES)]
)
def test_every_recorded_dialogue_replays(dialogue: dict[str, Any]) -> None:
    recorded = RecordedAnswers(str(PATH))
    history: list[dict[str, str]] = []
    for turn in dialogue["turns"]:
        quoted = "\n".join(f"> {line}" for line in turn["passage"].splitlines())  # as prompts quote them
        prompt = {"role": "user", "content": f"{quoted}\n\nAsk about it. Topic: {dialogue['topic']}"}
        assert recorded.text(USER_SIMULATOR, [*history, prompt]) == turn["user"]
        history += [{"role": "assistant", "content": turn["user"]}]
        answer = recorded.text("kb_responder", [{"role": "user", "content": turn["user"]}])
        assert answer == turn["assistant"]
        history += [{"role": "user", "content": answer}]
        assert recorded.verdict(history) == turn["verdict"]
