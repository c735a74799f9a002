"""Conversations in seed files: forms that are read, what is wrong with others, what plans make of them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlgforge_core.config import GenerationConfig, LlmConfig, SeedsConfig, validate
from dlgforge_core.dialogue import DialoguePlan
from dlgforge_core.errors import ConfigError, SeedError
from dlgforge_core.planning.personas import personas_of
from dlgforge_core.planning.plan import Planning, plan_run
from dlgforge_core.planning.seeds import SeedBatch, parse_seed_batch
from dlgforge_core.sources import Exchange
from tests.support.recipes import recipe_problem

OPENAI: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Why tides?", "name": "Ann"},
    {
        "role": "assistant",
        "content": [{"type": "text", "text": "The moon"}, {"type": "text", "text": " pulls."}],
    },
    {"role": "user", "content": "And the sun?"},
]
SHAREGPT = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "Why tides?"},
    {"from": "gpt", "value": "The moon pulls.", "weight": None},
    {"from": "human", "value": "And the sun?"},
]
EXCHANGES = (Exchange("Why tides?", "The moon pulls."), Exchange("And the sun?"))


def parquet(*rows: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), out)
    return out.getvalue()


def read(name: str, data: str | bytes, **config: Any) -> SeedBatch:
    content = data.encode() if isinstance(data, str) else data
    return parse_seed_batch(name, content, config=validate(SeedsConfig, config, "test"))


def line(**record: Any) -> str:
    return json.dumps({"language": "en", **record})


@pytest.mark.parametrize(
    ("name", "data", "config"),
    [
        ("a.jsonl", line(messages=OPENAI), {}),
        ("a.jsonl", line(conversations=SHAREGPT), {}),
        ("a.jsonl", json.dumps({"conversations": SHAREGPT, "source": "forum"}), {"language": "en"}),
        ("a.json", json.dumps([{"language": "en", "messages": OPENAI, "source": "forum"}]), {}),
        ("a.json", json.dumps([{"chat": SHAREGPT}]), {"language": "en", "columns": {"messages": "chat"}}),
        ("a.parquet", parquet({"language": "en", "conversations": SHAREGPT}), {}),
        ("a.csv", 'language,messages\nen,"' + json.dumps(OPENAI).replace('"', '""') + '"\n', {}),
    ],
)
def test_both_forms_are_read_from_every_kind_of_file(name: str, data: str | bytes, config: Any) -> None:
    batch = read(name, data, **config)
    assert batch.problems == ()
    (seed,) = batch.topics
    assert (seed.language, seed.topic, seed.question, seed.system) == ("en", "", None, "Be brief.")
    assert seed.exchanges == EXCHANGES
    assert seed.id == read("a.jsonl", line(messages=OPENAI)).topics[0].id


def test_a_row_with_a_topic_keeps_its_other_columns_as_metadata() -> None:
    rows = json.dumps([{"language": "en", "topic": "tides", "messages": OPENAI}])
    (seed,) = read("a.json", rows).topics
    assert (seed.messages, dict(seed.metadata)) == ((), {"messages": OPENAI})
    (seed,) = read("a.json", rows, columns={"messages": "messages"}).topics
    assert (seed.topic, seed.exchanges, dict(seed.metadata)) == ("tides", EXCHANGES, {})


def changed(number: int, **message: Any) -> list[Any]:
    return [*OPENAI[:number], {**OPENAI[number], **message}, *OPENAI[number + 1 :]]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"messages": "Why?"}, "messages is not valid JSON: "),
        ({"messages": []}, "messages = [] is no list of messages; it looks like [{"),
        ({"messages": {"role": "user"}}, "is no list of messages; it looks like [{"),
        ({"messages": ["Why?"]}, "messages[0] = 'Why?' is no message; it is an object with role and content"),
        (
            {"messages": [{"text": "Why?"}]},
            "messages[0]: role is missing; a message has role and",
        ),
        (
            {"messages": changed(1, role="asistant")},
            "messages[1].role = 'asistant': did you mean 'assistant'?",
        ),
        ({"messages": changed(1, content="  ")}, "messages[1].content = '  ' is empty; it must be text"),
        ({"messages": changed(1, content=7)}, "messages[1].content = 7 is not text"),
        ({"messages": changed(1, content=None)}, "messages[1].content is missing"),
        (
            {"messages": changed(1, content=[{"type": "image_url"}])},
            "messages[1].content[0] = {'type': 'image_url'} is no text; parts of other kinds cannot be used",
        ),
        ({"messages": changed(2, tool_calls=[{}])}, "messages[2]: it calls or answers as a tool"),
        ({"messages": changed(2, role="tool")}, "messages[2]: it calls or answers as a tool"),
        ({"messages": OPENAI[:1]}, "messages has no message of the user"),
        ({"messages": [*OPENAI[:1], *OPENAI[2:]]}, "messages[1] is the assistant's; it must be the user's"),
        ({"messages": [*OPENAI, OPENAI[3]]}, "messages[4] is the user's; it must be the assistant's"),
        ({"messages": [*OPENAI[1:], OPENAI[0]]}, "messages[3] is the system's; it must be the"),
        ({"conversations": [{"from": "bing", "value": "x"}]}, "conversations[0].from = 'bing': "),
        (
            {"messages": OPENAI, "conversations": SHAREGPT},
            "messages and conversations are both there; keep",
        ),
        ({"messages": OPENAI * 101}, "messages has 404 messages; it may have 400 at most"),
        ({"messages": OPENAI, "topic": " "}, "topic = ' ' is empty"),
        ({"topic": None}, "topic is missing; it must be text"),
    ],
)
def test_a_bad_conversation_is_named_with_line_key_and_value(record: dict[str, Any], problem: str) -> None:
    good = line(messages=[{"role": "user", "content": "Why snow?"}])
    batch = read("chats.jsonl", f"{good}\n\n{line(**record)}\n")
    assert len(batch.topics) == 1
    (found,) = batch.problems
    assert found.startswith("chats.jsonl:3: ")
    assert problem in found


def test_the_same_conversation_twice_is_one() -> None:
    batch = read("a.jsonl", f"{line(messages=OPENAI)}\n{line(conversations=SHAREGPT)}\n")
    assert len(batch.topics) == 1
    assert "a.jsonl:2: id = " in batch.problems[0]
    assert "line 1 is the same" in batch.problems[0]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_column_that_is_not_there_is_named(name: str) -> None:
    data = "language,chat\nen,x\n" if name == "a.csv" else parquet({"language": "en", "chat": "x"})
    with pytest.raises(SeedError, match=r"no column 'chats' for the conversations; did you mean 'chat'"):
        read(name, data, columns={"messages": "chats"})


def test_columns_that_were_there_before_make_the_same_batch() -> None:
    """The digest of a mapping without conversations is the one that it was."""
    csv = "Thema,language\nTee,de\n"
    assert read("a.csv", csv, columns={"topic": "Thema"}).digest == (
        "ee8bb815a082f6a432d1308bc28109738c9ce17695c90114498e608a6c65d194"
    )


# --- what is made of them


SEEDS = SeedBatch(
    "chats",
    "digest",
    (
        *read("a.jsonl", line(messages=OPENAI, id="tides")).topics,
        *read("a.jsonl", line(topic="snow", messages=OPENAI[1:3], id="snow")).topics,
    ),
)
TOPICS = read("t.jsonl", line(topic="rain"))


def planned(from_seed: str | None, *batches: SeedBatch, **config: Any) -> Planning:
    run = {"target_languages": ["en"], "total_samples": 4, "n_turns": 3, **config.pop("run", {})}
    conversation = {"from_seed": from_seed, **config.pop("conversation", {})}
    generation = validate(GenerationConfig, {"run": run, "conversation": conversation, **config}, "test")
    return plan_run(generation, LlmConfig(), personas_of(generation.personas), batches or [SEEDS])


def by_seed(planning: Planning) -> dict[str, DialoguePlan]:
    return {one.topic.id: one for plan in planning.plans for one in plan.dialogues()}


def test_turns_follow_what_is_continued_and_else_there_are_as_many_as_the_seed_has() -> None:
    for from_seed, turns in (("continue", (4, 4)), ("answer", (2, 1))):
        found = by_seed(planned(from_seed))
        assert (found["tides"].n_turns, found["snow"].n_turns) == turns
        assert (found["tides"].system_prompt, found["snow"].system_prompt) == ("Be brief.", "")
        for plan in found.values():
            assert DialoguePlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    own = {"system_prompts": [{"text": "Be kind."}]}
    assert by_seed(planned("answer", conversation=own))["tides"].system_prompt == "Be kind."
    goals = by_seed(planned("answer", conversation={"goals": [{"text": "A refund"}]}))
    assert (goals["tides"].goal, goals["tides"].system_prompt) == ("A refund", "Be brief.")


def test_what_is_translated_comes_from_other_languages() -> None:
    found = planned("translate", run={"target_languages": ["fr", "pt-BR"]})
    assert [(plan.language, plan.n_dialogues) for plan in found.plans] == [("fr", 2), ("pt-BR", 2)]
    assert by_seed(found)["tides"].system_prompt == ""
    with pytest.raises(ConfigError, match="'en', and all conversations are in it"):
        planned("translate", run={"target_languages": ["fr", "en"]})


def test_seeds_of_the_other_kind_are_left_out_and_reported() -> None:
    both = SeedBatch("both", "digest", (*SEEDS.topics, *TOPICS.topics))
    planning = planned("continue", both)
    assert set(by_seed(planning)) == {"tides", "snow"}
    assert "1 of 3 seeds hold no conversation for conversation.from_seed = continue" in planning.notes[0]
    planning = planned(None, both)
    assert {one.topic.topic for one in by_seed(planning).values()} == {"snow", "rain"}
    assert not any(one.topic.messages for one in by_seed(planning).values())
    assert "1 of 3 seeds are conversations, and are not used; set conversation.from_seed" in planning.notes[0]
    with pytest.raises(ConfigError, match=r"there is no seed to use in 'en'.*hold no conversation"):
        planned("answer", TOPICS)
    only = SeedBatch("only", "digest", SEEDS.topics[:1])
    with pytest.raises(ConfigError, match=r"are not used; set conversation\.from_seed"):
        planned(None, only)


def test_each_way_is_another_configuration() -> None:
    prints = {planned(one).fingerprint for one in ("continue", "answer")}
    prints.add(planned("translate", run={"target_languages": ["fr"]}).fingerprint)
    prints.add(planned(None, TOPICS).fingerprint)
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "conversation: {from_seed: extend}",
            "recipe.yaml:1: conversation.from_seed = 'extend': input should be 'continue'",
        ),
        (
            "conversation:\n  from_seed: answer\ntopics: {enabled: false}\nknowledge: {path: x}",
            "recipe.yaml:2: conversation.from_seed: there are no seeds where dialogues are made",
        ),
        (
            "seeds:\n  columns: {messages: topic}",
            "recipe.yaml:2: seeds.columns.topic: 'topic' is columns.messages, too; name another column",
        ),
    ],
)
def test_what_cannot_be_is_refused_when_the_recipe_loads(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in recipe_problem(tmp_path / "recipe.yaml", text)
