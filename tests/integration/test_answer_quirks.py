"""Whole runs against endpoints whose answers are odd: every dialogue is made, and clean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from dlgforge_core.config import ChecksConfig, JudgeConfig, ToolsConfig
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.quality.leaks import leaks
from dlgforge_core.store.run_store import RunStore
from tests.support.runs import planned, spec, work
from tests.support.simulated.bodies import SPOILT
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatedEndpoint]:
    with simulated_endpoint() as started:
        yield started


QUIRKS: dict[str, dict[str, Any]] = {
    **{f"spoilt: {spoilt}": {"spoilt": spoilt} for spoilt in SPOILT},
    "streams": {"streams": "always", "reasoning": "Let me see."},
    "streams unless told": {"streams": "by_default"},
    "think": {"text_template": "<think>\nHm.\n</think>\n\n{text}"},
    "Mistral": {"text_template": "[THINK]Let me ```see[/THINK]{text}</s>"},
    "EXAONE": {"text_template": "<thought>Hm.</thought>{text}[|endofturn|]\n[|user|]More?"},
    "Seed": {"text_template": "<seed:think>Hm.</seed:think>{text}<seed:eos>"},
    "ChatML": {"text_template": "<|im_start|>assistant\n{text}<|im_end|>\n<|im_start|>user\nAnd now?"},
    "gpt-oss": {
        "text_template": "<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>{text}<|return|>"
    },
    "scratchpad": {"text_template": "<scratchpad>1. Ask.\n2. Wait.</scratchpad>\n{text}<end_of_turn>"},
    "NUL": {"text_template": "{text}\0"},
    "verdicts as text": {"verdict": {"score": "8/10", "reasons": "Accurate"}},
    "verdicts with fractions": {"verdict": {"score": 7.5, "reasons": ["ACCURATE", "Helpful."]}},
}


@pytest.mark.parametrize("name", QUIRKS)
def test_a_run_against_it_is_complete_and_clean(
    store: RunStore, server: SimulatedEndpoint, name: str
) -> None:
    server.reset()
    server.configure(**QUIRKS[name])
    try:
        run = planned(store, 4, n_turns=1, concurrency=4, judge=JudgeConfig(mode="online"))
        work(spec(store, run, Endpoint("simulated", server.base_url)))
    finally:
        server.configure(text_template="{text}", spoilt="", streams="never", verdict={}, reasoning="")
    progress = store.progress(run.run_id)
    assert (progress.done, progress.drop_reasons) == (4, {})
    dialogues = list(store.dialogues(run.run_id))
    assert len(dialogues) == 4
    for dialogue in dialogues:
        assert not list(leaks(dialogue, ChecksConfig().leak_words))
        for turn in dialogue.turns:
            assert turn.judgement is not None
            for text in (turn.user, turn.assistant):
                assert text.isprintable()
                assert not any(mark in text for mark in ("Hm.", "<", "[", "And now", "More?"))


@pytest.mark.parametrize("field", ["reasoning_content", "extra_content"])
@pytest.mark.parametrize("streams", ["never", "always"])
def test_a_providers_own_fields_go_back_with_its_tool_calls(
    store: RunStore, server: SimulatedEndpoint, field: str, streams: str
) -> None:
    server.reset()
    server.configure(tool_calls="once", state_field=field, streams=streams)
    try:
        address = f"{server.base_url.removesuffix('/v1')}/search"
        tools = ToolsConfig(enabled=True, web_search=True, web_search_url=address)
        run = planned(store, 4, n_turns=1, judge=JudgeConfig(mode="off"), tools=tools)
        endpoints = [Endpoint(name, server.base_url) for name in "ab"]
        work(replace(spec(store, run, *endpoints), web_search_key=SecretStr("key-of-the-search")))
    finally:
        server.configure(tool_calls="ignored", state_field="", streams="never")
    dialogues = list(store.dialogues(run.run_id))
    assert len(dialogues) == 4
    for dialogue in dialogues:
        (turn,) = dialogue.turns
        assert [event.name for event in turn.details.tools] == ["web_search"]
        assert turn.details.tools[0].result
