"""The card, the figures and the plots of a written dataset."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import SavingConfig, validate
from dlgforge_core.dialogue import TurnDetails
from dlgforge_core.errors import ConfigError
from dlgforge_core.export.language_tags import language_tag
from dlgforge_core.export.markdown import sample_markdown
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.verdicts import Judgement
from tests.support.datasets import load_dataset
from tests.support.dialogues import (
    BAD,
    GOOD,
    THREE,
    any_text,
    file_name,
    grounded,
    header,
    judged,
    lines,
    make_dialogue,
    stats,
    write,
)


class TestCard:
    def test_what_only_its_maker_knows(self, tmp_path: Path) -> None:
        card = {"title": "Support talks", "description": "Of *one* shop.", "license": "cc-by-4.0"}
        write(tmp_path, [make_dialogue()], card=card)
        head, text = header(tmp_path), (tmp_path / "README.md").read_text("utf-8")
        assert (head["pretty_name"], head["license"]) == ("Support talks", "cc-by-4.0")
        assert "# Support talks\n\n1 dialogue" in text
        assert "\nOf *one* shop.\n" in text
        assert "No licence" not in text
        assert load_dataset(tmp_path, "sharegpt", tmp_path / "cache")["train"].num_rows == 1

    @pytest.mark.parametrize("name", ["CC-BY-4.0", "apache2", "my own"])
    def test_a_licence_that_the_hub_does_not_know(self, name: str) -> None:
        with pytest.raises(ConfigError, match="knows no such identifier"):
            validate(SavingConfig, {"card": {"license": name}}, "saving")

    def test_a_dialogue_that_was_led_off_its_topic(self, tmp_path: Path) -> None:
        on, off = grounded(0), grounded(1)
        turns = tuple(replace(t, details=replace(t.details, off_topic=True)) for t in off.turns)
        write(tmp_path, [on, replace(off, turns=turns)])
        rows = pq.read_table(tmp_path / file_name("parquet", "train")).to_pylist()
        assert [row["topic"] for row in rows] == ["topic 0", ""]
        assert [row["documents"] for row in rows] == [["guides/rain.md"]] * 2
        assert [r["documents"] for r in lines(tmp_path / file_name("sharegpt", "train"))] == [
            ["guides/rain.md"]
        ] * 2
        assert "1 dialogue went off the seed topic" in (tmp_path / "README.md").read_text("utf-8")
        assert stats(tmp_path)["off_topic"] == 1
        assert "### \u2068guides/rain.md\u2069" in sample_markdown([replace(off, turns=turns)])

    def test_it_says_what_is_so(self, tmp_path: Path) -> None:
        dialogues = [grounded(0, language="Moroccan Arabic"), grounded(1, language="pt-BR"), judged(2, GOOD)]
        asked, answered = grounded(3, 0, language="Elvish").turns
        evidence = (replace(answered.details.evidence[1], cited=False),)
        # One question that has passages and an answer without, and an answer that makes nothing of its own.
        first = replace(asked, details=TurnDetails(evidence=asked.details.evidence[:1]))
        second = replace(answered, details=TurnDetails(evidence=evidence))
        dialogues.append(replace(grounded(3, 0, language="Elvish"), turns=(first, second)))
        write_dataset(dialogues, tmp_path, title="Rain & *snow*", drop_reasons={"refused": 2})
        head, card = header(tmp_path), (tmp_path / "README.md").read_text("utf-8")
        assert head["pretty_name"] == "Rain & *snow*"
        assert head["language"] == ["ar", "en", "pt"]
        assert head["size_categories"] == ["n<1K"]
        assert head["task_categories"] == ["text-generation"]
        assert {"grounded", "tool-use"} <= set(head["tags"])
        assert "license" not in head
        for phrase in (
            "# Rain & \\*snow\\*",
            "4 dialogues with 7 turns",
            "As the assistant answered: `m`.",
            "| `Moroccan Arabic` | ar | 1 |",
            "Passages of 2 documents were given. Answers written with some: 5 of 7; answers that draw on "
            "them: 4.",
            "`vector_db_search` was called 4 times",
            "Given up while generating, `refused`: 2 dialogues.",
            "1 verdict on 1 dialogue, mean score 9.00 of 10.",
            "No language tag is known for `Elvish`.",
            "Everything is in one split.",
        ):
            assert phrase in card, phrase

    def test_it_names_the_judge_where_one_has_judged(self, tmp_path: Path) -> None:
        def named(verdict: Judgement | None, judges: list[str]) -> tuple[dict[str, str], str]:
            dialogue = replace(judged(0, verdict), models={"kb_responder": "m", "qa_judge": "planned"})
            write_dataset([dialogue], tmp_path, judges=judges)
            (record,) = lines(tmp_path / "data/sharegpt/train.jsonl")
            card = (tmp_path / "README.md").read_text("utf-8")
            return record["models"], card

        models, card = named(None, [])
        assert models == {"kb_responder": "m"}
        assert "As the judge" not in card
        models, card = named(GOOD, [])
        assert models == {"kb_responder": "m", "qa_judge": "planned"}
        models, card = named(GOOD, ["strict", "/models/kind"])
        assert models == {"kb_responder": "m", "qa_judge": "strict, kind"}
        assert "As the judge scored: `strict, kind`." in card

    def test_it_says_nothing_of_what_is_not_there(self, tmp_path: Path) -> None:
        write_dataset([make_dialogue()], tmp_path)
        card = (tmp_path / "README.md").read_text("utf-8")
        for word in ("passages", "tool ", "Json", "Left out", "Given up", "scores and reasons"):
            assert word not in card.split("## Columns")[0] + card.split("## Known limits")[1], word
        assert not {"grounded", "tool-use"} & set(header(tmp_path)["tags"])
        assert "- Nothing was judged." in card

    @settings(max_examples=12, deadline=None)
    @given(names=st.lists(any_text, min_size=1, max_size=3))
    def test_no_name_breaks_it(self, tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
        folder = tmp_path_factory.mktemp("card")
        dialogues = [
            grounded(i, language=name, model=name, topic=name, seed_id=name) for i, name in enumerate(names)
        ]
        write_dataset(dialogues, folder, title=names[0])
        assert header(folder)["configs"][0]["config_name"] == "sharegpt"
        for row in re.findall(r"^\|.*$", (folder / "README.md").read_text("utf-8"), re.MULTILINE):
            assert row.count("|") in (3, 4, 5, 11)
        for plot in (folder / "plots").iterdir():
            ElementTree.parse(plot)

    @pytest.mark.parametrize(
        ("name", "tag"),
        [
            ("en", "en"),
            ("pt-BR", "pt"),
            ("zh_Hant", "zh"),
            ("Moroccan Arabic", "ar"),
            ("Gulf Arabic", "ar"),
            ("Levantine Arabic", "ar"),
            ("Egyptian Arabic", "ar"),
            ("Swiss German", "de"),
            ("Brazilian Portuguese", "pt"),
            ("Haitian Creole", "ht"),
            ("Cantonese", "yue"),
            ("no", "no"),
            ("iw", "he"),
            ("français québécois", "fr"),
            ("العربية", "ar"),
            ("हिन्दी", "hi"),
            ("Dari", "fa"),
            ("Tok Pisin", "tpi"),
            ("Min Nan Chinese", "zh"),
            ("ary", "ary"),
            ("Elvish", None),
            ("", None),
        ],
    )
    def test_language_tags(self, name: str, tag: str | None) -> None:
        assert language_tag(name) == tag


class TestStatsAndPlots:
    def test_figures(self, tmp_path: Path) -> None:
        summary = write(tmp_path, [grounded(i) for i in range(10)] + [judged(10, GOOD, BAD)], splits=THREE)
        figures = stats(tmp_path)
        assert list(figures) == sorted(figures)
        assert (figures["dialogues"], figures["turns"], figures["read"]) == (11, 22, 11)
        assert {s: f["dialogues"] for s, f in figures["by_split"].items()} == dict(
            sorted(summary.by_split.items())
        )
        assert figures["turn_counts"] == {"2": 11}
        assert figures["scores"]["verdicts"] == {"2": 1, "9": 1}
        assert figures["scores"]["reasons"] == {"helpful": 1, "incorrect": 1}
        assert figures["documents"]["most_used"] == [
            {"document": "guides/rain.md", "turns_cited": 0, "turns_given": 20},
            {"document": "snow.pdf", "turns_cited": 20, "turns_given": 20},
        ]
        assert figures["tools"] == {"vector_db_search": {"calls": 20, "errors": 0}}
        assert figures["lengths"]["user"]["p50"] == pytest.approx(6, abs=1)
        assert sum(f["dialogues"] for f in figures["formats"]["sharegpt"]) == 11

    def test_splits_have_their_colours_in_the_order_of_the_configuration(self, tmp_path: Path) -> None:
        def order(numbers: list[int]) -> list[str]:
            write(tmp_path, [grounded(i) for i in numbers], splits={"train": 0.5, "test": 0.5})
            svg = (tmp_path / "plots/languages.svg").read_text("utf-8")
            return sorted(("train", "test"), key=lambda split: svg.index(f">{split}<"))

        assert order(list(range(10))) == order(list(range(10))[::-1]) == ["train", "test"]

    def test_plots_are_named_in_the_card_and_hold_text(self, tmp_path: Path) -> None:
        write(tmp_path, [grounded(i, language="العربية") for i in range(3)] + [judged(9, GOOD)])
        names = {path.name for path in (tmp_path / "plots").iterdir()}
        assert names == {
            f"{n}.svg" for n in ("turns", "lengths", "scores", "reasons", "languages", "documents", "tools")
        }
        card = (tmp_path / "README.md").read_text("utf-8")
        assert all(f"(plots/{name})" in card for name in names)
        assert "العربية" in (tmp_path / "plots/languages.svg").read_text("utf-8")
        write(tmp_path, [make_dialogue()])
        assert {p.name for p in (tmp_path / "plots").iterdir()} == {
            "turns.svg",
            "lengths.svg",
            "languages.svg",
        }
