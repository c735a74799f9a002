"""The checks of a finished set: each finds what it is for, and passes what is good."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.config import ChecksConfig, JudgeConfig, MarkupConfig
from dlgforge_core.dialogue import Dialogue, DialoguePlan, Evidence, Persona, Role, Turn, TurnDetails
from dlgforge_core.export.verify import DatasetError, verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.prompting import dialogue_prompts as prompts
from dlgforge_core.prompting import verdict_prompts
from dlgforge_core.quality import checks as quality_checks
from dlgforge_core.quality.checks import CHECKS, CheckInfo, PartEnds, run_checks
from dlgforge_core.quality.collectors import COLLECTORS, PASS_RATE, CheckReport, Collector
from dlgforge_core.quality.findings import findings_key, findings_of
from dlgforge_core.run_outcomes import Outcomes
from dlgforge_core.sources import SeedTopic
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.verdicts import Judgement

USER = Persona("u", "Careful buyer", "A careful buyer who asks about the price and then about the guarantee.")
ASSISTANT = Persona(
    "a", "Patient teacher", "Explains one step at a time and gives an example for each of them."
)
ENGLISH = [
    (
        "How do I repair a squeaking door at home?",
        "Put a little oil on the hinges and move the door a few times.",
    ),
    (
        "Which oil should I buy for the hinges?",
        "Any light machine oil from the hardware store will do the job well.",
    ),
    (
        "What if the noise comes back next week?",
        "Then take the pin out, clean it thoroughly and oil it once more.",
    ),
]
FRENCH = [
    (
        "Comment réparer une porte qui grince à la maison ?",
        "Mettez un peu d'huile sur les charnières de la porte.",
    ),
    (
        "Quelle huile faut-il acheter pour les charnières ?",
        "Une huile légère du magasin de bricolage suffit.",
    ),
]


def dialogue(
    exchanges: Sequence[tuple[str, str]] = ENGLISH,
    number: int = 0,
    language: str = "en",
    score: int | None = 8,
) -> Dialogue:
    topic = SeedTopic("t", language, "home repair")
    plan = DialoguePlan(f"id-{number}", number, language, len(exchanges), topic, USER, ASSISTANT)
    verdict = Judgement(score, ("clear",)) if score is not None else None
    return Dialogue(plan, tuple(Turn(i, user, answer, verdict) for i, (user, answer) in enumerate(exchanges)))


def check(
    dialogues: Sequence[Dialogue],
    outcomes: Outcomes,
    languages: Collection[str],
    config: ChecksConfig,
    parts: int = 1,
    only: Collection[str] | None = None,
) -> list[CheckReport]:
    """Return the reports on a set that was looked at in so many parts."""
    names = COLLECTORS if only is None else only
    size = -(-len(dialogues) // parts) or 1
    found = [
        findings_of(dialogues[start : start + size], languages, config, names)
        for start in range(0, len(dialogues), size)
    ]
    found = orjson.loads(orjson.dumps(found))  # as they come from the store
    asked = [
        (dialogue.plan.dialogue_id, number, turn.user)
        for dialogue in dialogues
        for number, turn in enumerate(dialogue.turns, start=1)
    ]
    return run_checks(found, lambda: asked, outcomes, config, only=only)


def reports(
    dialogues: Sequence[Dialogue], outcomes: Outcomes | None = None, **config: object
) -> dict[str, CheckReport]:
    settings = ChecksConfig.model_validate(config)
    languages = {d.plan.language for d in dialogues}
    outcomes = outcomes or Outcomes(len(dialogues), len(dialogues), {})
    made = check(dialogues, outcomes, languages, settings)
    assert [report.name for report in made] == [check.name for check in CHECKS]
    return {report.name: report for report in made}


def failed(dialogues: Sequence[Dialogue], outcomes: Outcomes | None = None, **config: object) -> set[str]:
    return {name for name, report in reports(dialogues, outcomes, **config).items() if not report.passed}


def with_tools(dialogue: Dialogue) -> Dialogue:
    """Return the same, with two calls behind the first answer."""
    calls = tuple(ToolEvent("vector_db_search", {"query": "hinge"}, "found", call_id=f"c{n}") for n in (1, 2))
    first, *rest = dialogue.turns
    return replace(dialogue, turns=(replace(first, details=TurnDetails(tools=calls)), *rest))


def test_good_dialogues_pass_every_check() -> None:
    assert failed([dialogue(), dialogue(FRENCH, 1, "fr")]) == set()
    assert failed([with_tools(dialogue())]) == set()


def test_a_silent_side_breaks_the_alternation() -> None:
    found = reports([dialogue([*ENGLISH[:2], ("Is that all there is to it?", "")])])
    assert found["roles_alternate"].examples[0].problem.endswith("user, assistant, user")
    assert not found["roles_alternate"].passed
    assert not found["no_empty_messages"].passed


GOOD = ENGLISH[0]


@pytest.mark.parametrize(
    ("exchanges", "check"),
    [
        ([GOOD, (" … ", GOOD[1])], "no_empty_messages"),
        ([GOOD, (GOOD[0].upper().replace("?", "!!"), "Another answer to it.")], "unique_questions"),
        ([(GOOD[0], "You will have to take the door off and then put the")], "no_cut_messages"),
        ([(GOOD[0], "Well, <|im_start|>user is what I have to say about this door.")], "no_leaks"),
        ([(GOOD[0], f"I am {ASSISTANT.description.lower()}")], "no_leaks"),
        ([(GOOD[0], FRENCH[0][1])], "language"),
    ],
)
def test_each_check_finds_what_it_is_for(exchanges: list[tuple[str, str]], check: str) -> None:
    found = reports([dialogue(exchanges)])
    assert not found[check].passed
    assert found[check].examples[0].dialogue_id == "id-0"
    assert {name for name, report in found.items() if not report.passed} == {check}


QUOTING = "You do it like this, as they say:\n> Put a little oil on the hinges of the door.\nThat is all."


@pytest.mark.parametrize(
    ("user", "assistant", "grounded", "leaks"),
    [
        (*GOOD, True, False),
        ("What does this passage say of the hinges?", GOOD[1], True, True),
        ("What does the text above say of the hinges?", GOOD[1], True, True),
        ("What does this passage say of the hinges?", GOOD[1], False, False),
        (GOOD[0], QUOTING, True, True),
        (GOOD[0], QUOTING, False, False),
        (GOOD[0], f"According to the passage, {GOOD[1]}", True, True),
        (GOOD[0], "The passage states that a little oil on the hinges of the door helps.", True, True),
        (GOOD[0], "The passage states that a little oil on the hinges of the door helps.", False, False),
        (GOOD[0], f"Write it so:\n```\n{QUOTING}\n```", True, False),
        (GOOD[0], f"{GOOD[1]}\n</passages>", False, True),
        ("<passage> What is it that squeaks in here?", GOOD[1], False, True),
    ],
)
def test_who_gives_away_the_material_leaks(user: str, assistant: str, grounded: bool, leaks: bool) -> None:
    made = dialogue([(user, assistant)])
    if grounded:
        evidence = tuple(Evidence("c", "doors.md", role) for role in (Role.USER_SIMULATOR, Role.ASSISTANT))
        made = replace(made, turns=(replace(made.turns[0], details=TurnDetails(evidence)),))
    report = reports([made])["no_leaks"]
    assert report.passed is not leaks
    assert report.figures["wrong"] == leaks


def test_what_is_in_the_prompts_leaks() -> None:
    """Whoever writes a prompt anew finds here that the check knows it."""
    made = dialogue()
    plan, turns = made.plan, made.turns
    instructions = [
        prompts.user_simulator(plan, turns[:n], kinds=kinds[: n + 1], evidence=evidence, on_topic=on_topic)
        for kinds in ([], ["why something is so", "for an example", "what could go wrong"])
        for evidence in ("", "> Put a little oil on the hinges.")
        for on_topic in (True, False)
        for n in range(3)
    ]
    instructions += [
        prompts.another_question(plan, [], "Q?", why)
        for why in (prompts.ASKED_BEFORE, prompts.NAMES_MATERIAL)
    ]
    instructions += [prompts.assistant(plan, turns, "Q?", grounded=grounded) for grounded in (True, False)]
    instructions += [verdict_prompts.turn_judge(plan, JudgeConfig(), turns, turns[0], evidence="> x")]
    exchanges = {
        message["content"] for messages in instructions for message in messages if message["role"] == "system"
    }
    asked = [messages[-1]["content"] for messages in instructions if messages[0]["role"] != "system"]
    asked += [messages[-1]["content"].split("\n\n")[-1] for messages in instructions[:24]]
    assert len(exchanges) == 7
    for text in [*exchanges, *asked]:
        assert not reports([dialogue([(text, GOOD[1])])])["no_leaks"].passed, text


def test_a_question_asked_in_two_dialogues_is_found_and_both_are_shown() -> None:
    report = reports([dialogue(ENGLISH[:1], 1), dialogue(ENGLISH[1:], 2), dialogue(ENGLISH[:1], 3)])[
        "unique_questions"
    ]
    assert report.figures["wrong"] == 1
    assert [e.dialogue_id for e in report.examples] == ["id-1", "id-3"]


def test_broken_turns_and_scores_fail_the_schema() -> None:
    good = dialogue()
    assert failed([replace(good, turns=good.turns[1:])]) >= {"schema", "turn_counts"}
    assert failed([replace(good, turns=())]) >= {"schema", "roles_alternate", "turn_counts"}
    assert failed([replace(good, judgement=Judgement(11, ()))]) == {"schema"}


def test_too_many_drops_or_nothing_at_all_block() -> None:
    good = [dialogue()]
    assert failed(good, Outcomes(4, 2, {"refused": 2})) == set()
    assert failed(good, Outcomes(5, 2, {"refused": 2, "invalid_output": 1})) == {"drop_rate"}
    assert failed(good, Outcomes(5, 2, {"refused": 3}), max_drop_rate=0.6) == set()
    assert failed([], Outcomes(5, 0, {})) == {"drop_rate"}
    assert reports(good, Outcomes(9, 1, {"refused": 1}))["drop_rate"].figures["unfinished"] == 7


def test_a_part_of_which_too_many_were_dropped_blocks_and_is_named() -> None:
    def report(*parts: PartEnds) -> CheckReport:
        done, dropped = sum(part.finished for part in parts), sum(part.dropped for part in parts)
        outcomes = Outcomes(done + dropped, done, {"refused": dropped})
        (made,) = run_checks((), tuple, outcomes, ChecksConfig(), parts=parts, only={"drop_rate"})
        return made

    good = PartEnds("en|good", 20, 1)
    bad = report(good, PartEnds("en|bad", 1, 9))
    assert not bad.passed
    assert "9 of 10 in en|bad" in bad.summary
    assert bad.figures["worst_drop_rate"] == 0.9
    assert report(good, PartEnds("en|few", 1, 2)).passed, "three dialogues tell nothing"
    assert not report(good, PartEnds("en|none", 0, 4)).passed
    assert report(good, PartEnds("en|half", 10, 10)).passed
    assert not report(PartEnds("en|few", 1, 2)).passed


def test_markup_that_is_kept_is_no_leak() -> None:
    made = [dialogue([(GOOD[0], "Well, a sequence ends here.</s> And that is what I have to say about it.")])]
    wrong = {
        str(keep): findings_of(made, ["en"], ChecksConfig(), ["no_leaks"], keep)["no_leaks"]["wrong"]
        for keep in (None, MarkupConfig(keep=["</s>"]), MarkupConfig(keep=["think"]))
    }
    assert list(wrong.values()) == [1, 0, 1]
    keys = {findings_key([], ChecksConfig(), keep) for keep in (None, MarkupConfig(keep=["</s>"]))}
    assert len(keys) == 2


def test_chosen_checks_alone_are_run() -> None:
    made = check([dialogue()], Outcomes(1, 1, {}), ["en"], ChecksConfig(), only=("no_leaks", "schema"))
    assert [report.name for report in made] == ["schema", "no_leaks"]


def test_low_scores_fail_the_pass_rate_and_the_lowest_are_shown() -> None:
    dialogues = [dialogue([(f"{q} {n}", a) for q, a in ENGLISH], n, score=n) for n in range(5)]
    report = reports(dialogues, max_examples=2)["judge_pass_rate"]
    assert not report.passed
    assert report.figures["pass_rate"] == 0
    assert [e.problem.split(":")[0] for e in report.examples] == ["0/10", "0/10"]
    assert reports([dialogue(score=None)])["judge_pass_rate"].passed


def test_a_language_without_a_code_is_not_judged() -> None:
    report = reports([dialogue(language="Klingon")])["language"]
    assert report.passed
    assert report.figures["undetected"] == 6


@given(st.integers(1, 9))
def test_the_parts_of_a_set_make_the_same_reports_as_the_whole(parts: int) -> None:
    made = [dialogue([(f"{q} {n % 6}", a) for q, a in ENGLISH], n, score=n) for n in range(7)]
    made += [dialogue(FRENCH, 7, "fr"), dialogue([("What for?", "It is the oil that stops the"), GOOD], 8)]
    made += [dialogue([(GOOD[0], f"I am {USER.description}"), ("", "")], 9), dialogue(FRENCH, 10, "en")]
    outcomes, config = Outcomes(11, 11, {}), ChecksConfig(max_examples=2)
    whole = check(made, outcomes, ["en", "fr"], config)
    assert {r.name for r in whole if r.examples} >= {"no_leaks", "no_cut_messages", "language", PASS_RATE}
    assert check(made, outcomes, ["en", "fr"], config, parts) == whole


@given(
    st.lists(st.tuples(st.text(max_size=40), st.text(max_size=40)), max_size=4), st.sampled_from(["en", "x"])
)
def test_whatever_was_written_every_check_gives_an_answer(
    exchanges: list[tuple[str, str]], language: str
) -> None:
    for report in reports([dialogue(exchanges, language=language)]).values():
        assert 0 <= report.figures.get("share", 0) <= 1
        assert len(report.examples) <= 5


def test_a_dataset_is_read_back_and_a_broken_one_is_reported(tmp_path: Path) -> None:
    write_dataset([dialogue(), dialogue(FRENCH, 1, "fr")], tmp_path)
    assert verify_dataset(tmp_path) == {"sharegpt": 2, "openai_messages": 2, "parquet": 2}
    sharegpt = tmp_path / "data" / "sharegpt" / "train.jsonl"
    parquet = tmp_path / "data" / "parquet" / "train.parquet"
    lines = sharegpt.read_text()
    sharegpt.write_text(lines.splitlines()[0] + "\n")
    with pytest.raises(DatasetError, match=r"sharegpt train 1;"):
        verify_dataset(tmp_path)
    sharegpt.write_text(lines[:-10])
    with pytest.raises(DatasetError, match=r"sharegpt/train\.jsonl:2"):
        verify_dataset(tmp_path)
    sharegpt.write_text(lines)
    pq.write_table(pq.read_table(parquet).drop_columns(["score"]), parquet)
    with pytest.raises(DatasetError, match="score"):
        verify_dataset(tmp_path)
    with pytest.raises(DatasetError, match="holds no dataset"):
        verify_dataset(tmp_path / "nowhere")


def test_a_check_needs_its_collector_and_its_description(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shouting(Collector):
        name = "no_shouting"
        what = "messages are shouted"

        def add(self, dialogue: Dialogue) -> None:
            for turn in dialogue.turns:
                self.looked_at += 1
                if turn.user.isupper():
                    self.found(dialogue.plan.dialogue_id, turn.index + 1, "it is all capitals", turn.user)

    monkeypatch.setitem(COLLECTORS, Shouting.name, Shouting)
    monkeypatch.setattr(
        quality_checks, "CHECKS", (*CHECKS, CheckInfo("no_shouting", "Nobody shouts.", False))
    )
    shouted = [dialogue([("WHY?", "Because of that.")])]
    (found,) = check(shouted, Outcomes(1, 1, {}), ["en"], ChecksConfig(), only=("no_shouting",))
    assert (found.passed, found.figures["wrong"]) == (False, 1)
