"""Languages by code or by the name of a dialect."""

import pytest

from dlgforge_core.config import GenerationConfig, LlmConfig, RunConfig
from dlgforge_core.dialogue import SeedTopic, Turn
from dlgforge_core.errors import ConfigError
from dlgforge_core.generation import prompts
from dlgforge_core.languages import base_code, language_name
from dlgforge_core.personas import read_personas
from dlgforge_core.planning import plan_run, topics_for
from dlgforge_core.quality.language import LanguageDetector
from dlgforge_core.seeds import SeedBatch, parse_seed_batch

LLM = LlmConfig(backend="openai", model="m", base_url="http://127.0.0.1:1/v1")


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("fr", "fr"),
        ("pt-BR", "pt"),
        ("ar-MA", "ar"),
        ("ary", "ar"),
        ("Moroccan Arabic", "ar"),
        ("Gulf Arabic", "ar"),
        ("Levantine Arabic", "ar"),
        ("Egyptian Arabic", "ar"),
        ("Swiss German", "de"),
        ("Brazilian Portuguese", "pt"),
        ("français", "fr"),
        ("हिन्दी", "hi"),
        ("தமிழ்", "ta"),
        ("বাংলা", "bn"),
        ("o‘zbek", "uz"),
        ("kurdî (kurmancî)", "ku"),
        ("zh-Hant-TW", "zh"),
        ("Darija", "darija"),  # no language's name is in it
    ],
)
def test_a_dialect_belongs_to_its_language(language: str, code: str) -> None:
    assert base_code(language) == code


def test_names_for_prompts() -> None:
    assert language_name("ar-MA") == "Arabic (Morocco)"
    assert language_name("ary") == "Moroccan Arabic"
    assert language_name("Gulf Arabic") == "Gulf Arabic"


def batch(*topics: tuple[str, str]) -> SeedBatch:
    found = tuple(SeedTopic(f"t{i}", *topic, "An example?", "b") for i, topic in enumerate(topics))
    return SeedBatch(name="b", digest="d", topics=found, problems=())


def test_topics_come_from_the_nearest_language() -> None:
    seeds = batch(("ar", "خبز"), ("ar-EG", "كشري"), ("en", "bread"))
    assert [t.topic for t in topics_for(seeds, "ar-EG")] == ["كشري"]
    assert [t.topic for t in topics_for(seeds, "Moroccan Arabic")] == ["خبز"]
    assert topics_for(seeds, "de") == ()
    assert [t.topic for t in topics_for(seeds, "de", "en")] == ["bread"]


def generation(*languages: str, fallback: str = "") -> GenerationConfig:
    run = RunConfig(target_languages=list(languages), fallback_language=fallback, total_samples=4, n_turns=2)
    return GenerationConfig(run=run)


def test_a_language_without_topics_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"fallback_language"):
        plan_run(generation("de"), LLM, read_personas(), [batch(("en", "bread"))])


def test_a_language_beyond_the_seeds_is_planned_and_asked_for() -> None:
    planning = plan_run(generation("de", fallback="en"), LLM, read_personas(), [batch(("en", "bread"))])
    plan = planning.plans[0].dialogue(0)
    assert plan.language == "de"
    told = prompts.user_simulator(plan, [])
    assert "German" in told[0]["content"]
    assert all("An example?" not in message["content"] for message in told)  # it is English


def test_a_dialect_keeps_its_base_languages_example() -> None:
    planning = plan_run(generation("Gulf Arabic"), LLM, read_personas(), [batch(("ar", "خبز"))])
    told = prompts.user_simulator(planning.plans[0].dialogue(0), [])
    assert "Gulf Arabic" in told[0]["content"]
    assert any("An example?" in message["content"] for message in told)


def test_dialects_are_told_from_english() -> None:
    detector = LanguageDetector(["Moroccan Arabic", "ar-EG"])
    assert detector.knows("Moroccan Arabic")
    assert detector.detect("كيف يمكنني أن أخبز الخبز في البيت اليوم؟") == "ar"


def test_a_seed_file_may_name_a_dialect() -> None:
    text = "Gulf Arabic:\n  الخبز:\n    - كيف أخبز؟\n".encode()
    assert parse_seed_batch("s.yaml", text, label="s.yaml").languages == ("Gulf Arabic",)


def test_evidence_is_of_one_turn_and_in_the_last_message() -> None:
    plan = plan_run(generation("en"), LLM, read_personas(), [batch(("en", "bread"))]).plans[0].dialogue(0)
    first = prompts.user_simulator(plan, [], "<passages>\n> one\n</passages>")
    second = prompts.user_simulator(plan, [Turn(0, "q", "a")], "<passages>\n> two\n</passages>")
    assert "> one\n</passages>\n\nAsk me another short question" in first[-1]["content"]
    assert "> one" not in str(second)
    assert second[-1]["content"].startswith("a\n\n")
    # All but the last message stays as it was: the server's prefix cache holds it.
    assert second[: len(first) - 1] == first[:-1]
    plain = prompts.user_simulator(plan, [Turn(0, "q", "a")])
    assert plain[:-1] == second[:-1]


def test_passages_do_not_stay_in_the_history() -> None:
    plan = plan_run(generation("en"), LLM, read_personas(), [batch(("en", "bread"))]).plans[0].dialogue(0)
    first = prompts.assistant(plan, [], "q1", grounded=True, passages="<passages>\n> p1\n</passages>")
    second = prompts.assistant(plan, [Turn(0, "q1", "a1")], "q2", grounded=True, passages="> p2")
    assert first[-1]["content"].endswith("\n\nq1")
    assert second[1] == {"role": "user", "content": "q1"}
    assert first[0] == second[0]


def test_an_answer_does_not_repeat_the_passages_form() -> None:
    assert prompts.without_quotes("Plain text\n> as it is") == "Plain text\n> as it is"
    assert prompts.without_quotes("<passages>\n[1]\n> one\n>\n</passages>\nSo it is.") == "So it is."
    assert prompts.without_quotes("<passages>\n> one") == ""
