"""The recipe of own prompts, run: what the models are told, and what is exported."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dlgforge_core.config import DatasetFilesConfig
from dlgforge_core.dialogue import Role
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.store.run_store import RunStore
from tests.support.dialogues import lines
from tests.support.recipes import run_example


def test_the_recipe_of_own_prompts(store: RunStore, tmp_path: Path) -> None:
    example = run_example(store, "own_prompts.yaml")
    recipe, run, dialogues = example.recipe, example.run, example.dialogues
    halden = "You are the support assistant of Halden Books. Be brief, and never promise a refund."
    ada = "You are Ada, who works in the shop of Halden Books. You answer in English, warmly."
    system_texts = {dialogue.plan.dialogue_id: dialogue.plan.system_prompt for dialogue in dialogues}
    assert Counter(system_texts.values()) == {halden: 6, ada: 2}
    assert Counter(dialogue.plan.examples for dialogue in dialogues) == {(0,): 4, (1,): 4}

    speakers = (Role.USER_SIMULATOR, Role.ASSISTANT, Role.JUDGE)
    asked = {role: example.asked(role) for role in speakers}
    assert {role: len(prompts) for role, prompts in asked.items()} == dict.fromkeys(speakers, 16)
    assert all(prompt[0]["content"].startswith("Play a customer of") for prompt in asked[Role.USER_SIMULATOR])
    systems = Counter(prompt[0]["content"].split("\n")[0] for prompt in asked[Role.ASSISTANT])
    assert systems == {halden: 12, ada: 4}
    assert all("\n> You are " in prompt[0]["content"] for prompt in asked[Role.JUDGE])
    for prompts in (asked[Role.USER_SIMULATOR], asked[Role.ASSISTANT]):
        first, second = ([prompt for prompt in prompts if is_second(prompt) == n] for n in (False, True))
        assert len(first) == len(second) == 8
        assert all(any(later[: len(one)] == one for one in first) for later in second)

    saving = DatasetFilesConfig(formats=["openai_messages", "sharegpt"])
    write_dataset(dialogues, tmp_path, saving=saving, columns=OptionalColumns(system=True))
    messages = lines(tmp_path / "data/openai_messages/train.jsonl")
    assert [[m["role"] for m in row["messages"]] for row in messages] == [
        ["system", "user", "assistant", "user", "assistant"]
    ] * 8
    assert [row["messages"][0]["content"] for row in messages] == list(system_texts.values())
    assert [row["system"] for row in lines(tmp_path / "data/sharegpt/train.jsonl")] == list(
        system_texts.values()
    )
    again = example.prepare_again(store)
    assert (again.run_id, store.progress(again.run_id).pending) == (run.run_id, 0)
    assert again.generation.prompts == recipe.prompts


def is_second(prompt: list[dict[str, str]]) -> bool:
    """Whether a prompt is of the second turn: it ends after one more exchange."""
    return sum(message["role"] == "assistant" for message in prompt) == 1 + ("Ask" in prompt[1]["content"])
