"""Diversity of a dataset: what is counted, that memory is bounded, and the check that names what repeats."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dlgforge_core.common.questions import normal_form
from dlgforge_core.config import ChecksConfig, Recipe, validate
from dlgforge_core.config.asset_names import DIALOGUE_DATASET
from dlgforge_core.dialogue import Dialogue, Turn
from dlgforge_core.quality import diversity as module
from dlgforge_core.quality.diversity import (
    Diversity,
    FrequentTexts,
    distinct,
    opening,
    similarities,
)
from dlgforge_core.quality.diversity_check import MIN_QUESTIONS, check_diversity
from dlgforge_core.store.near_duplicates import jaccard, shingles
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.diversity_check import build_diversity_check
from dlgforge_dagster.metadata.dataset import dataset_metadata
from tests.support.dialogues import make_dialogue, stats, write

WORDS = [f"{a}{b}" for a, b in itertools.product(("b", "d", "gr", "pl", "st"), ("an", "ell", "ing"))]


def asked(questions: list[str], language: str = "en", first: int = 0) -> list[Dialogue]:
    return [
        make_dialogue(
            first + i, (Turn(0, text, f"Because {text}"),), language=language, topic=f"topic {i % 4}"
        )
        for i, text in enumerate(questions)
    ]


def varied(n: int, seed: int = 0) -> list[str]:
    chosen = random.Random(seed)
    return [" ".join(chosen.sample(WORDS, 8)).capitalize() + "?" for _ in range(n)]


def figures_of(dialogues: list[Dialogue]) -> dict[str, Any]:
    made = Diversity()
    for dialogue in dialogues:
        made.add(dialogue, dialogue.plan.language)
    return made.to_json()


class TestFigures:
    def test_distinct_n_is_different_runs_among_all(self) -> None:
        texts = [["a", "b", "a"], ["a", "b"], ["c"]]
        assert distinct(texts, 1) == 0.5  # a, b, c of six
        assert distinct(texts, 2) == pytest.approx(2 / 3, abs=1e-4)  # ab, ba, ab
        assert distinct(texts, 3) == 1.0
        assert distinct(texts, 4) is None

    def test_similarity_is_that_of_near_copies(self) -> None:
        texts = ["Why does it rain?", "Why does it snow?", "为什么下雨？", "Unlike any other"]
        found = similarities(texts)
        for (i, one), (j, other) in itertools.combinations(enumerate(texts), 2):
            forms = [shingles(normal_form(text)) for text in (one, other)]
            assert found[i, j] == found[j, i] == pytest.approx(jaccard(*forms))

    @pytest.mark.parametrize(
        ("question", "expected"),
        [
            ("How do I, as a novice, swim?", "how do i"),
            ("HOW  do\nI", "how do i"),
            ("Why?", "why"),
            ("请问如何学习中文？", "请问如何学习"),
            ("어떻게 하면 수영을 할 수 있나요?", "어떻게 하면 수영을"),
            ("?!", ""),
        ],
    )
    def test_an_opening_is_how_a_question_begins(self, question: str, expected: str) -> None:
        assert opening(question) == expected

    def test_each_language_has_its_own(self) -> None:
        english = asked([f"How do I {text}" for text in varied(30)])
        chinese = asked(
            [f"请问如何{a}{b}？" for a, b in itertools.product("天地玄黄宇", "金木水火土")], "zh", 100
        )
        found = figures_of(english + chinese)["by_language"]
        assert list(found) == ["en", "zh"]
        assert found["en"]["openings"]["top"] == [{"opening": "how do i", "count": 30, "share": 1.0}]
        assert found["zh"]["openings"]["different"] == 25
        assert found["zh"]["questions"]["distinct_1"] == pytest.approx(14 / 150, abs=1e-4)
        assert found["en"]["topics"]["different"] == 4
        assert found["en"]["topics"]["top"][0] == {"topic": "topic 0", "count": 8, "share": 0.2667}

    def test_repeats_are_near_and_named(self) -> None:
        questions = [*varied(10), "Is the bridge open on Sundays?", "Is the bridge open on Sunday?"]
        found = figures_of(asked(questions))["by_language"]["en"]["questions"]
        assert set(found["most_similar"][0]["texts"]) == set(questions[-2:])
        assert found["most_similar"][0]["similarity"] > 0.8
        same = figures_of(asked(["The same again?"] * 5))["by_language"]["en"]["questions"]
        assert same["self_similarity"] == same["nearest_similarity"] == 1.0
        assert same["distinct_1"] == 0.2

    def test_one_message_or_none_has_no_similarity(self) -> None:
        found = figures_of(asked(["Why?"]))["by_language"]["en"]["questions"]
        assert (found["self_similarity"], found["nearest_similarity"], found["most_similar"]) == (
            None,
            None,
            [],
        )
        assert found["distinct_2"] is None
        assert figures_of([])["by_language"] == {}


class TestBounds:
    def test_the_order_of_dialogues_does_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "SAMPLE", 20)
        dialogues = asked(varied(100))
        assert figures_of(dialogues) == figures_of(dialogues[::-1])
        assert figures_of(dialogues)["by_language"]["en"]["questions"]["sampled"] == 20

    def test_a_sample_tells_the_same_of_small_and_great_sets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "SAMPLE", 50)
        small, great = (figures_of(asked(varied(n)))["by_language"]["en"] for n in (50, 2_000))
        assert great["questions"]["distinct_2"] == pytest.approx(small["questions"]["distinct_2"], abs=0.1)

    def test_long_messages_are_looked_at_in_part(self) -> None:
        sample = module.MessageSample()
        sample.add("d", 0, "word " * 1_000_000)
        assert sum(map(len, sample.texts)) == module.MESSAGE_CHARS

    def test_rare_texts_are_forgotten_and_frequent_ones_are_not(self) -> None:
        counts = FrequentTexts(most=100)
        texts = ["often"] * 500 + [f"once {i}" for i in range(2_000)]
        random.Random(3).shuffle(texts)
        for text in texts:
            counts.add(text)
            assert len(counts.counts) <= 100
        found = counts.to_json("topic")
        assert found["top"][0]["topic"] == "often"
        assert 500 - counts.missed <= found["top"][0]["count"] <= 500
        assert (found["exact"], found["counted"]) == (False, 2_500)
        assert found["different"] >= 2_001


def checks(**settings: Any) -> ChecksConfig:
    return validate(ChecksConfig, settings, "checks")


class TestCheck:
    def test_it_names_the_opening_that_repeats_and_the_language(self) -> None:
        questions = [f"Can you explain {text}" for text in varied(15)] + varied(10, 1)
        report = check_diversity(figures_of(asked(questions) + asked(varied(30), "fr", 100)), checks())
        assert not report.passed
        assert report.summary == "en: 60.0% of 25 questions begin alike (at most 50.0% may)"
        assert [example.excerpt for example in report.examples] == ["can you explain"]
        assert report.figures["opening_share_en"] == 0.6

    def test_it_names_questions_that_are_alike(self) -> None:
        questions = [f"How old is the {text[:5]} bridge over the river?" for text in varied(40)]
        found = figures_of(asked(questions))
        report = check_diversity(found, checks(max_opening_share=None, max_self_similarity=0.4))
        assert not report.passed
        assert report.summary.startswith("en: self-similarity of the questions is 0.")
        assert "bridge over the river" in report.examples[0].excerpt
        lacking = check_diversity(found, checks(max_opening_share=None, min_distinct_2=0.9))
        assert lacking.summary.startswith("en: distinct-2 of the questions is 0.")

    def test_varied_questions_pass_and_thresholds_may_be_off(self) -> None:
        report = check_diversity(figures_of(asked(varied(30))), checks())
        assert (report.passed, list(report.examples)) == (True, [])
        assert report.summary == "the questions of 1 of 1 languages differ as much as they must"
        off = check_diversity(figures_of(asked(["How do I?"] * 30)), checks(max_opening_share=None))
        assert (off.passed, off.summary) == (True, "every threshold of diversity is off")

    def test_few_questions_say_nothing(self) -> None:
        report = check_diversity(figures_of(asked(["How do I?"] * (MIN_QUESTIONS - 1))), checks())
        assert report.passed
        assert "1 have fewer than 20 questions" in report.summary


class TestDataset:
    def test_the_figures_are_in_statistics_card_plot_and_page(self, tmp_path: Path) -> None:
        dialogues = asked([f"How do I {text}" for text in varied(30)], "Gulf | Arabic")
        summary = write(tmp_path, dialogues)
        figures = stats(tmp_path)["diversity"]
        assert figures == summary.diversity
        assert figures["method"]["sampled_messages"] == 1_000
        card = (tmp_path / "README.md").read_text("utf-8")
        row = next(line for line in card.splitlines() if line.startswith("| `Gulf ¦ Arabic` | 30 |"))
        assert "| 100.0% of 1 | 100.0% of 4 | `how do i` 100.0% |" in row
        page = dataset_metadata(summary, dialogues)
        assert page["diversity"].records[0].data["most frequent opening"] == "how do i (100.0%)"
        assert page["diversity_plots"].value.startswith("![")

    def test_the_asset_check_warns_and_never_stops(self, tmp_path: Path) -> None:
        write(tmp_path, asked([f"How do I {text}" for text in varied(30)]))
        recipe = validate(Recipe, {"checks": {"max_opening_share": 0.25}}, "recipe")
        spec = DatasetSpec("", recipe)
        check = build_diversity_check(spec)
        assert not next(iter(check.check_specs)).blocking
        job = dg.define_asset_job("check", selection=dg.AssetSelection.checks(check))
        definitions = dg.Definitions(asset_checks=[check], jobs=[job])
        with dg.DagsterInstance.ephemeral() as instance:
            folder = {"folder": dg.MetadataValue.path(str(tmp_path))}
            event = dg.AssetMaterialization(spec.key(DIALOGUE_DATASET), metadata=folder)
            instance.report_runless_asset_event(event)
            result = definitions.resolve_job_def("check").execute_in_process(instance=instance)
        (found,) = result.get_asset_check_evaluations()
        assert result.success
        assert not found.passed
        assert found.severity is dg.AssetCheckSeverity.WARN
        assert found.description == "en: 100.0% of 30 questions begin alike (at most 25.0% may)"
