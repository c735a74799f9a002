"""The recipe of statistics, run: words, tokens and diversity are the messages', and each answer is a row."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from dlgforge_core.common.questions import normal_form
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.quality.diversity_check import check_diversity
from dlgforge_core.store.run_store import RunStore
from tests.support.dialogues import lines
from tests.support.recipes import run_example


def test_the_recipe_of_statistics(store: RunStore, tmp_path: Path) -> None:
    example = run_example(store, "statistics.yaml")
    dialogues = example.dialogues
    write_dataset(dialogues, tmp_path, saving=example.recipe.saving.files)
    assert verify_dataset(tmp_path) == {"prompt_completion": 24, "parquet": 24}
    turns = [turn for dialogue in dialogues for turn in dialogue.turns]
    rows = lines(tmp_path / "data/prompt_completion/train.jsonl")
    assert [row["completion"] for row in rows] == [
        [{"role": "assistant", "content": turn.assistant}] for turn in turns
    ]
    assert [len(row["prompt"]) for row in rows] == [1, 3] * 24

    stats = json.loads((tmp_path / "dataset_stats.json").read_text())
    sizes = stats["words_and_tokens"]
    for role, texts in (("user", [t.user for t in turns]), ("assistant", [t.assistant for t in turns])):
        assert sizes[role]["words"] == sum(len(normal_form(text).split()) for text in texts)
        assert sizes[role]["tokens"] == sum(-(-len(text.encode()) // 4) for text in texts)
        assert sizes[role]["mean_words"] == round(sizes[role]["words"] / 48, 1)
    assert sizes["tokenizer"]["estimated"]

    for language in ("en", "es"):
        found = stats["diversity"]["by_language"][language]
        asked = [turn.user for one in dialogues if one.plan.language == language for turn in one.turns]
        assert found["questions"]["messages"] == len(asked) == 24
        pairs = [pair for text in asked for pair in pairwise(normal_form(text).split())]
        assert found["questions"]["distinct_2"] == pytest.approx(len(set(pairs)) / len(pairs), abs=1e-4)
    assert "estimated: a token for every 4 bytes" in (tmp_path / "README.md").read_text()

    report = check_diversity(stats["diversity"], example.recipe.checks)
    assert report.passed, report.summary
    strict = example.recipe.checks.model_copy(update={"min_distinct_2": 1.0})
    assert check_diversity(stats["diversity"], strict).summary.startswith(
        "en: distinct-2 of the questions is "
    )
