"""Own prompts, system messages and examples: read with their recipe, planned, told, exported, previewed."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import GenerationConfig, JudgeConfig, LlmConfig, PromptsConfig, Recipe, read_recipe
from dlgforge_core.dialogue import DialoguePlan, Role, Turn
from dlgforge_core.errors import ConfigError
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.generation.preview import main, planned, preview, prompts_of
from dlgforge_core.judging.judges import judges_of
from dlgforge_core.planning.draws import block_of, several_in_cycle
from dlgforge_core.planning.fingerprint import content_fingerprint
from dlgforge_core.planning.personas import read_personas
from tests.support.dialogues import ALL, header, lines, make_dialogue, write

EXAMPLE = Path(__file__).parents[2] / "examples/recipes/own_prompts.yaml"


def recipe(folder: Path, text: str, **files: str) -> Recipe:
    for name, content in files.items():
        (folder / f"{name}.jinja").write_text(content, "utf-8", newline="")
    (folder / "mine.yaml").write_text(text, "utf-8")
    return read_recipe(folder / "mine.yaml")


def fingerprint(one: Recipe) -> str:
    return content_fingerprint(one.generation, one.llm, read_personas())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("prompts:\n  qa_gen:\n    system: x\n", "mine.yaml:2: prompts.qa_gen: unknown key; did you mean"),
        (
            "prompts:\n  qa_judge:\n    sistem: x\n",
            "mine.yaml:3: prompts.qa_judge.sistem: unknown key; did you mean 'system'?",
        ),
        (
            "prompts:\n  kb_responder:\n    system: |\n      You are kind.\n\n      {{ personna }}\n",
            "mine.yaml:6: prompts.kb_responder.system: there is no variable 'personna'; did you mean",
        ),
        (
            "prompts:\n  kb_responder:\n    question: {file: a.jinja}\n",
            "a.jinja:2: prompts.kb_responder.question: there is no variable 'qestion'",
        ),
        ("prompts: {qa_generator: {question: 'Ask.'}}", "it must use {{ answer }} somewhere"),
        ("prompts: {qa_generator: {asked_before: ' '}}", "the template is empty"),
        ("prompts: {qa_generator: {system: {fil: a}}}", "give a text, or {file: a file beside the recipe}"),
        ("prompts: {qa_generator: {system: [a]}}", "mine.yaml:1: prompts.qa_generator.system is a list"),
        ("prompts: {qa_generator: {system: {file: c.jinja}}}", "c.jinja cannot be read: No such file"),
        ("prompts: {qa_generator: {system: {file: ../x}}}", "must be a path in the recipe's folder"),
        ("prompts: {qa_generator: {system: {file: /etc/passwd}}}", "must be a path in the recipe's folder"),
        ("prompts: {qa_generator: {system: {file: away}}}", "is a link that leads out of"),
        ("prompts: {qa_generator: {system: {file: pipe}}}", "is no plain file"),
        ("prompts: {qa_generator: {system: {file: latin1}}}", "latin1:2: byte 0xe9 is not UTF-8"),
        ("prompts: {qa_generator: {system: {file: large}}}", "large has more than 80,000 bytes"),
        (
            "conversation:\n  system_prompts:\n    - Kind.\n    - {text: '{{ tipic }}'}\n",
            "mine.yaml:4: conversation.system_prompts.1.text: there is no variable 'tipic'; did you mean",
        ),
        ("conversation: {system_prompts: [{file: a.jinja, text: a}]}", "both `text` and `file`; keep one"),
        ("conversation: {system_prompts: [{text: a, weight: 0}]}", "weight = 0: "),
        ("conversation: {system_prompts: ['{{ attributes.tone }}']}", "there is no attribute 'tone'"),
        (
            "knowledge: {path: shipped}\nprompts:\n  kb_responder:\n    question: 'Q: {{ question }}'\n",
            "mine.yaml:4: prompts.kb_responder.question: knowledge.path is set, and the template does not "
            "use {{ passages }}",
        ),
        (
            "judge: {rubric: [{name: depth}]}\nprompts:\n  qa_judge:\n    system: 'Judge {{ topic }}.'\n",
            "mine.yaml:4: prompts.qa_judge.system: judge.rubric is set, and the template does not use "
            "{{ rubric }}",
        ),
        (
            "prompts:\n  qa_judge: {system: {file: b.jinja}}\njudge:\n  mode: offline\n"
            "  rubric: [{name: depth}]\n",
            "mine.yaml:2: prompts.qa_judge.system: judge.rubric is set",
        ),
        ("examples: {exchanges: [{question: a}]}", "examples.exchanges.0.answer: missing"),
        ("examples: {shown_to: [qa_judge]}", "shown_to names 'qa_judge'; choose from qa_generator"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_reported_with_file_and_line(
    tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "away").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin1").write_bytes(b"x\ncaf\xe9")
    (tmp_path / "large").write_text("x" * 80_001)
    with pytest.raises(ConfigError) as caught:
        recipe(tmp_path, text, a="Fine.\n{{ qestion }}", b="Judge depth.")
    assert problem in str(caught.value)


def test_the_text_of_a_file_counts_and_not_its_path(tmp_path: Path) -> None:
    from_file = "prompts: {qa_generator: {system: {file: %s.jinja}}}"
    one = recipe(tmp_path, from_file % "a", a="Ask as {{ persona }}.\r\nBriefly.")
    assert one.prompts.qa_generator.system == "Ask as {{ persona }}.\nBriefly."
    (tmp_path / "linked.jinja").symlink_to("a.jinja")  # as in Kubernetes' volumes
    inline = recipe(tmp_path, 'prompts: {qa_generator: {system: "Ask as {{ persona }}.\\nBriefly."}}')
    linked = recipe(tmp_path, from_file % "linked")
    assert one.generation == inline.generation == linked.generation
    plain = recipe(tmp_path, "")
    assert fingerprint(one) == fingerprint(linked) != fingerprint(plain)
    assert fingerprint(recipe(tmp_path, from_file % "a", a="Other.")) not in {
        fingerprint(one),
        fingerprint(plain),
    }
    # What travels to workers holds the texts, and needs no file.
    (tmp_path / "a.jinja").unlink()
    assert GenerationConfig.model_validate_json(one.generation.model_dump_json()) == one.generation


def test_only_what_is_set_and_used_counts(tmp_path: Path) -> None:
    plain = fingerprint(recipe(tmp_path, ""))
    for text in (
        "prompts: {qa_judge: {}}",
        "examples: {per_dialogue: 2}",
        "conversation: {system_prompts: []}",
    ):
        assert fingerprint(recipe(tmp_path, text)) == plain, text
    judge = "\nprompts: {qa_judge: {system: 'Judge {{ topic }}.'}}"
    offline = "judge: {mode: offline}"
    assert fingerprint(recipe(tmp_path, judge)) != plain
    assert fingerprint(recipe(tmp_path, offline + judge)) == fingerprint(recipe(tmp_path, offline))
    for text in (
        "conversation: {system_prompts: [Be kind.]}",
        "examples: {exchanges: [{question: a, answer: b}]}",
    ):
        assert fingerprint(recipe(tmp_path, text)) != plain


def test_a_judges_own_prompt_may_speak_of_the_rubric_itself(tmp_path: Path) -> None:
    rubric = "judge: {rubric: [{name: depth, description: Why so}]%s}\n"
    own = "prompts: {qa_judge: {system: 'Rate depth.%s'}}"
    itself = recipe(tmp_path, rubric % ", show_rubric: false" + own % "")
    assert system_of_the_judge(itself) == "Rate depth."
    prompts_for = recipe(tmp_path, rubric % "" + own % " {{ rubric }}")
    assert "Why so" in system_of_the_judge(prompts_for)
    shipped, without = (recipe(tmp_path, rubric % text) for text in ("", ", show_rubric: false"))
    assert "Why so" in system_of_the_judge(shipped)
    assert "Why so" not in system_of_the_judge(without)
    assert len({fingerprint(one) for one in (itself, prompts_for, shipped, without)}) == 4
    # Without a rubric the key says nothing.
    assert fingerprint(recipe(tmp_path, "judge: {show_rubric: false}")) == fingerprint(recipe(tmp_path, ""))


def system_of_the_judge(one: Recipe) -> str:
    plan = next(iter(planned(one, 1)))
    return str(next(messages[0]["content"] for role, messages in prompts_of(one, plan) if role is Role.JUDGE))


def test_own_prompts_of_an_offline_judge_make_other_verdicts() -> None:
    llm = LlmConfig(backend="openai", model="m", base_url="http://host/v1")
    offline = JudgeConfig(mode="offline")
    own = PromptsConfig.model_validate({"qa_judge": {"system": "Judge {{ topic }}."}})
    (plain,), (none,), (other,) = (judges_of(offline, llm, p) for p in (None, PromptsConfig(), own))
    assert plain.key == none.key != other.key


# The plan


def plans(folder: Path, text: str, n: int) -> list[DialoguePlan]:
    return list(planned(recipe(folder, f"run: {{total_samples: {n}, target_languages: [en]}}\n{text}"), n))


def test_system_messages_come_as_often_as_their_weights_say(tmp_path: Path) -> None:
    text = "conversation: {system_prompts: [{text: 'A of {{ topic }}.', weight: 3}, {text: B., weight: 1.0}]}"
    made = plans(tmp_path, text, 40)
    for first in range(0, 40, 4):
        assert Counter(plan.system_prompt[0] for plan in made[first : first + 4]) == {"A": 3, "B": 1}
    assert all(plan.system_prompt in (f"A of {plan.topic.topic}.", "B.") for plan in made)
    assert plans(tmp_path, text, 8) == made[:8]
    assert DialoguePlan.from_json(json.loads(json.dumps(made[0].to_json()))) == made[0]


def test_languages_and_no_system_message_for_a_share(tmp_path: Path) -> None:
    text = (
        "run: {total_samples: 24, target_languages: [en, fr, es]}\nconversation:\n  system_prompts:\n"
        "    - {text: Hi., languages: [en]}\n    - {text: Salut., languages: [fr]}\n"
        "    - {text: '', languages: [fr]}"
    )
    found = Counter((plan.language, plan.system_prompt) for plan in planned(recipe(tmp_path, text), 24))
    assert found == {("en", "Hi."): 8, ("fr", "Salut."): 4, ("fr", ""): 4, ("es", ""): 8}


def test_a_plan_without_any_has_no_trace_of_them(tmp_path: Path) -> None:
    (plan,) = plans(tmp_path, "", 1)
    assert not {"system_prompt", "examples"} & plan.to_json().keys()
    fixed = "examples: {exchanges: [{question: a, answer: b}]}"
    assert plans(tmp_path, fixed, 1)[0].to_json().keys() == plan.to_json().keys()


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=8, max_size=8), st.integers(1, 12), st.integers(1, 12), st.integers(0, 5))
def test_examples_are_different_and_come_equally_often(key: bytes, size: int, count: int, epoch: int) -> None:
    drawn = [several_in_cycle(key, size, epoch * size + i, count) for i in range(size)]
    each = min(count, size)
    assert all(len(set(one)) == len(one) == each for one in drawn)
    assert Counter(itertools.chain.from_iterable(drawn)) == dict.fromkeys(range(size), each)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_weights_make_a_short_cycle_with_everything_in_it(weights: list[float]) -> None:
    block = block_of(weights)
    assert set(block) == set(range(len(weights)))
    assert len(block) <= 1100
    for number, weight in enumerate(weights):
        share = block.count(number) / len(block)
        assert abs(share - weight / sum(weights)) < 0.03


# Prompts


def prompts_for(one: Recipe, plan: DialoguePlan, turn: int = 0) -> dict[Role, list[dict[str, Any]]]:
    return dict(prompts_of(one, plan, turn))


def test_the_prompts_of_each_role(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE.parents[2])
    one = read_recipe(EXAMPLE)
    plan = next(planned(one, 1))
    prompts = prompts_for(one, plan)
    user, assistant, judge = (prompts[role][0]["content"] for role in one.generation.roles)
    assert user.startswith(
        f"Play a customer of a bookshop who writes to its support; the matter: {plan.topic.topic}.\n"
    )
    assert assistant.startswith(
        f"{plan.system_prompt}\nHow you write: {plan.assistant_persona.description}\n"
    )
    assert f"> {plan.system_prompt}" in judge
    assert plan.examples is not None
    (shown,) = plan.examples
    question, answer = one.examples.exchanges[shown].question, one.examples.exchanges[shown].answer
    assert user.endswith(f"\n- {question}\nAsk in their manner; never ask one of them.")
    assert assistant.endswith(f"\n\nQuestion: {question}\nAnswer: {answer}")
    assert question not in judge


def test_shipped_prompts_with_a_system_message_and_fixed_examples(tmp_path: Path) -> None:
    text = (
        "conversation: {system_prompts: ['You are Max. <|im_end|> {{ topic }}']}\n"
        "examples: {shown_to: [kb_responder], exchanges: [{question: '1?', answer: a}, {question: '2?', "
        "answer: b}, {question: '3?', answer: c, language: fr}]}"
    )
    one = recipe(tmp_path, f"run: {{target_languages: [en]}}\n{text}")
    plan = next(planned(one, 1))
    prompts = prompts_for(one, replace(plan, topic=replace(plan.topic, topic="{{ 7*7 }} <|im_end|>")))
    assistant = prompts[Role.ASSISTANT][0]["content"]
    assert assistant.startswith(f"{plan.system_prompt}\nHow you answer: ")
    assert "You are a helpful assistant" not in assistant
    assert assistant.index("1?") < assistant.index("2?")
    assert "3?" not in assistant
    user = prompts[Role.USER_SIMULATOR][0]["content"]
    assert "{{ 7*7 }} ‹|im_end|>" in user
    assert "Max" not in user
    assert "1?" not in user


def test_a_system_message_that_is_empty_is_left_out(tmp_path: Path) -> None:
    one = recipe(tmp_path, "run: {target_languages: [en]}\nprompts: {kb_responder: {system: ''}}")
    (message,) = prompts_for(one, next(planned(one, 1)))[Role.ASSISTANT]
    assert message["role"] == "user"


@pytest.mark.parametrize("own", [True, False])
def test_prompts_grow_at_their_end_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: bool) -> None:
    monkeypatch.chdir(EXAMPLE.parents[2])
    one = read_recipe(EXAMPLE) if own else recipe(tmp_path, "conversation: {system_prompts: [Be kind.]}")
    plan = replace(next(planned(one, 1)), n_turns=4)
    for earlier, later in itertools.pairwise(prompts_for(one, plan, turn) for turn in range(4)):
        for role in one.generation.roles:
            assert later[role][: len(earlier[role]) - 1] == earlier[role][:-1], role
            if role is Role.USER_SIMULATOR or role is Role.ASSISTANT:
                assert later[role][: len(earlier[role])] == earlier[role], role


def test_preview(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.chdir(EXAMPLE.parents[2])
    assert main([str(EXAMPLE), "--dialogues", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("# dialogue ") == 2
    for heading in (
        "## qa_generator, system",
        "## kb_responder, user\n(question 1)",
        "## qa_judge, user\nUser:",
    ):
        assert printed.count(heading) == 2
    judged = replace_judge(read_recipe(EXAMPLE), "off")
    assert "qa_judge" not in "\n".join(preview(judged))
    (tmp_path / "bad.yaml").write_text("prompts: {qa_generator: {system: '{{ x }}'}}")
    assert main([str(tmp_path / "bad.yaml")]) == 1
    assert "bad.yaml:1: prompts.qa_generator.system: there is no variable 'x'" in capsys.readouterr().err


def test_a_preview_that_is_read_in_part_ends_quietly() -> None:
    command = [sys.executable, "-m", "dlgforge_core.generation.preview", "examples/recipes/own_prompts.yaml"]
    with subprocess.Popen(
        command, cwd=EXAMPLE.parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_preview_shows_the_request_for_a_trace(tmp_path: Path) -> None:
    parts = "[{name: doubts, content: what is open}]"
    text = f"run: {{target_languages: [en]}}\nreasoning: {{prompted: true, parts: {parts}}}"
    one = recipe(tmp_path, text)
    printed = "\n".join(preview(one))
    assert "(question 1)\n\nBefore you answer, write down in English" in printed
    assert "\n- doubts: what is open\n- answer: " in printed


def replace_judge(one: Recipe, mode: str) -> Recipe:
    return one.model_copy(update={"judge": one.judge.model_copy(update={"mode": mode})})


# Exports


def test_system_messages_in_each_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dialogues = [make_dialogue(), make_dialogue(1, (Turn(0, "And?", "So."),))]
    secret = "abcdefghijklmnopqrstuvwxyz123456"
    monkeypatch.setenv("SOME_API_KEY", secret)
    dialogues[0] = replace(dialogues[0], plan=replace(dialogues[0].plan, system_prompt=f"Be kind. {secret}"))
    write(tmp_path / "a", dialogues, formats=ALL, system="include")
    rows = lines_of(tmp_path / "a")
    system_message = rows["openai_messages"][0]["messages"][0]
    assert system_message["role"] == "system"
    assert system_message["content"].startswith("Be kind. ")
    assert secret not in system_message["content"]
    assert rows["parquet"][0]["messages"][0] == system_message
    assert [row["system"] for row in rows["sharegpt"]] == [system_message["content"], ""]
    assert [row["system"] for row in rows["sharegpt_judged"]] == [system_message["content"], ""]
    assert [m["role"] for m in rows["openai_messages"][1]["messages"]] == ["user", "assistant"]
    assert verify_dataset(tmp_path / "a") == dict.fromkeys(ALL, 2)
    features = {info["config_name"]: info["features"] for info in header(tmp_path / "a")["dataset_info"]}
    assert {"name": "system", "dtype": "string"} in features["sharegpt"]
    write(tmp_path / "b", dialogues, formats=ALL, system="none")
    write(tmp_path / "c", [make_dialogue(), dialogues[1]], formats=ALL)
    assert lines_of(tmp_path / "b") == lines_of(tmp_path / "c")


def lines_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {name: lines(folder / f"data/{name}/train.jsonl") for name in ALL}
