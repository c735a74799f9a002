"""Thinking and control tokens of many model families: taken out, found where left, and not seen elsewhere."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import LlmConfig, MarkupConfig, validate
from dlgforge_core.errors import ConfigError
from dlgforge_core.llm.markup import Markup, default_markup

THINKING = [
    "<think>{}</think>\n\n",
    "<THINK>{}</think >",
    "<think time='3'>{}</think>",
    "<thinking>{}</thinking>\n",
    "<thought>{}</thought>",
    "<thoughts>{}</thoughts>",
    "<reasoning>{}</reasoning>",
    "<scratchpad>{}</scratchpad>",
    "<scratch_pad>{}</scratch_pad>",
    "<inner_monologue>{}</inner_monologue>",
    "<thinking>{}</thinking>",
    "<antThinking>{}</antThinking>",
    "<seed:think>{}</seed:think>",
    "<seed:think><seed:cot_budget_reflect>{}</seed:cot_budget_reflect></seed:think>",
    "<longcat_think>{}</longcat_think>",
    "<think_fast>{}</think_fast>",
    "[THINK]{}[/THINK]",
    "[REASONING]{}[/REASONING]",
    "◁think▷{}◁/think▷",
    "<|begin_of_thought|>{}<|end_of_thought|>",
    "<|START_THINKING|>{}<|END_THINKING|>",
    "<|thinking|>{}<|/thinking|>",
    "<|inner_prefix|>{}<|inner_suffix|>",
    "<|channel>thought\n{}<channel|>",
    "<unused94>{}<unused95>",
    "Here is my thought process: {}\n\nHere is my response: ",
    "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
    "analysis {}assistantfinal",
    "{}</think>",
    "{}[/THINK]\n",
    "{}</seed:think>",
    "{}<|end|><|start|>assistant<|channel|>final<|message|>",
]
ENDS = [
    *(
        "<|im_end|>",
        "</s>",
        "<|eot_id|>",
        "<end_of_turn>",
        "<｜end▁of▁sentence｜>",
        "<|endoftext|>",
        "<|end|>",
    ),
    *(
        "<|return|>",
        "<eos>",
        "[|endofturn|]",
        "[e~[",
        "<turn|>",
        "<seed:eos>",
        "<|END_OF_TURN_TOKEN|>",
        "[EOS]",
    ),
    *(
        "<|eom_id|>",
        "<end_of_utterance>",
        "</s><s>[INST]",
        "<|reserved_special_token_7|>",
        "[UNUSED_TOKEN_145]",
    ),
]
STARTS = [
    *("<|im_start|>assistant\n", "<s> ", "[/INST] ", "<start_of_turn>model\n", "]~b]ai\n", "<｜Assistant｜>"),
    *(
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|assistant|>",
        "[|assistant|]",
        "<|turn>model\n",
    ),
    *("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<s><|im_start|>assistant\n"),
]
ANSWER = "Hello. It costs 3 < 4 [1]."


@pytest.mark.parametrize("form", THINKING)
def test_thinking_is_kept_apart(form: str) -> None:
    raw = form.format("Hm.\n\nLet me ```see `this`")
    message, reasoning = default_markup().clean(raw + ANSWER)
    assert message == ANSWER
    assert reasoning == "Hm.\n\nLet me ```see `this`"
    assert default_markup().leftover(message + reasoning) == ""


@pytest.mark.parametrize("end", ENDS)
def test_a_text_ends_at_its_first_control_token(end: str) -> None:
    for more in ("", "\n<|im_start|>user\nAnd now?", " User: and now?", "\n\nmore"):
        assert default_markup().clean(f"{ANSWER}{end}{more}") == (ANSWER, "")
    assert default_markup().leftover(ANSWER + end)


@pytest.mark.parametrize("start", STARTS)
def test_tokens_that_begin_an_answer_go(start: str) -> None:
    assert default_markup().clean(start + ANSWER + "<|im_end|>").text == ANSWER


@pytest.mark.parametrize(
    ("raw", "message", "reasoning"),
    [
        ("<think>hm <think>deeper</think> hm</think>Hello.", "Hello.", "hm deeper hm"),
        ("<think>a</think>One.<think>b</think> Two.", "One. Two.", "a\n\nb"),
        ("<think>a<think>b</think>Hello.", "Hello.", "ab"),
        ("Hello. <think>and now", "Hello.", "and now"),
        ("Sure <think> the user asks", "Sure", "the user asks"),
        ("<think>cut in the middle of", "", "cut in the middle of"),
        ("hm</think></think>Hello.", "Hello.", "hm"),
        ("<think>\n\n</think>\n\nHello.", "Hello.", ""),
        ("<think>x</think><answer>Hello.</answer>", "Hello.", "x"),
        ("<thinking>x<reflection>y</reflection></thinking><output>Hello.</output>", "Hello.", "xy"),
        ("<think>x ```py\n1</think>So:\n```py\ny\n```", "So:\n```py\ny\n```", "x ```py\n1"),
        ("x:\n```py\n1\n</think>\nSo:\n```py\ny\n```", "So:\n```py\ny\n```", "x:\n```py\n1"),
        (
            "<|begin_of_thought|>x<|end_of_thought|><|begin_of_solution|>Hello.<|end_of_solution|>",
            "Hello.",
            "x",
        ),
        ("<|START_RESPONSE|>Hello.<|END_RESPONSE|>", "Hello.", ""),
        ("<|im_end|>\n<|im_start|>user\nHi", "", ""),
    ],
)
def test_thinking_in_unusual_places(raw: str, message: str, reasoning: str) -> None:
    assert default_markup().clean(raw) == (message, reasoning)


@pytest.mark.parametrize(
    "text",
    [
        "1 < 2 and <b>bold</b>, a<b>c, x[i] = [INSTANCE], I <3 you | me",
        "result = data |> Enum.map(&f/1) |> IO.inspect; f <| g <| h; p <|> q; List<User> <T>",
        "The price was <s>10</s> 8 euros.",
        "<s>Old</s> new.",
        "What does </s> mean in HTML?",
        "What does `</s>` mean, and `<|im_end|>`?",
        'What does "<|im_end|>" mean? And «</think>»?',
        "How do I use <thinking> tags in a prompt?",
        "Wrap it in <think>...</think> tags.",
        "Use:\n```xml\n<think>x</think>\n<thought>a</thought>\n```\nand `<|eot_id|>`.",
        "The [PAD] token is used for padding.",
        "[link](https://example.org) [x] [[wiki]] <https://example.org/a|b>",
        "| Token | Meaning |\n|---|---|\n| </s> | end |\n| <|im_end|> | the same |",
        "- **</s>** ends a sequence\n- **<pad>** fills it",
        "1. <bos>: beginning\n2. <eos>: end",
        "Use List<Thought> thoughts = new ArrayList<>();",
        "Here is my thought process: I first add, then multiply.",
        "He wrote </s> in code: ```html\n<s>a</s>\n```",
        "« Combien ? » <<EOF 你好<世界>",
    ],
)
def test_ordinary_text_and_talk_about_markup_stay(text: str) -> None:
    assert default_markup().clean(text) == (text, "")
    assert default_markup().leftover(text) == ""


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Hello.<|some_new_token|> More", "<|some_new_token|>"),
        ("Hello. <thought>", "<thought>"),
        ("So.</reasoning>", "</reasoning>"),
        ("a [|newrole|] b", "[|newrole|]"),
        ("Hello.\n<|user|>: And then?", "<|user|>"),
        ("Hello.\n[INST] And then?", "[INST]"),
        ("Hello.[/THINK]", "[/THINK]"),
    ],
)
def test_what_is_left_is_found_by_its_shape(text: str, left: str) -> None:
    assert default_markup().leftover(text) == left


def test_the_configuration_adds_keeps_and_switches_off() -> None:
    markup = Markup(
        MarkupConfig(thinking_tags=["plan", "<<: :>>"], control_tokens=["@@END"], keep=["</s>", "think"])
    )
    assert markup.clean("<plan>x</plan><<: y :>>Hello.@@END more") == ("Hello.", "x\n\ny")
    assert markup.clean("So <think>it</think></s> is.").text == "So <think>it</think></s> is."
    off = Markup(MarkupConfig(remove=False))
    assert off.clean(" <think>x</think>Hello.</s>") == ("<think>x</think>Hello.</s>", "")
    for bad in ({"thinking_tags": ["<plan>"]}, {"thinking_tags": ["a b c"]}, {"control_tokens": [" "]}):
        with pytest.raises(ConfigError, match="llm.markup" if "llm" in bad else "markup"):
            validate(LlmConfig, {"markup": bad}, "c")


def test_what_an_object_holds_is_data() -> None:
    verdict = '{"comment": "It leaks <think> and <|im_end|>.", "score": 3}'
    assert default_markup().without_thinking(f" {verdict}") == verdict
    assert default_markup().without_thinking(f'<think>{{"score": 5}}</think>{verdict}') == verdict


PIECES = [
    *(
        "<think>",
        "</think>",
        "<Reasoning>",
        "</reasoning>",
        "[THINK]",
        "[/THINK]",
        "<|im_end|>",
        "</s>",
        "<s>",
    ),
    *("`", "```", "\n", " ", "a", ".", '"', "<|channel|>analysis", "<|message|>", "<|end|>", "<answer>"),
]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PIECES), max_size=20))
def test_what_is_cleaned_shows_no_markup_and_cleaning_adds_nothing(parts: list[str]) -> None:
    raw = "".join(parts)
    message, reasoning = default_markup().clean(raw)
    assert default_markup().clean(message).text == message or default_markup().leftover(message) == ""
    assert len(message) + len(reasoning) <= len(raw) + 2 * len(parts)


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "<think>",
            "</think>",
            "<think>a</think>",
            "<",
            "<|",
            "<|a",
            "[",
            "[THINK]",
            "```",
            "`",
            "~~~",
            "``a",
        ),
        *(
            "<s>",
            "<think ",
            "<a_",
            "<|a_a_a_a",
            "<|message|>",
            "<|channel|>analysis<|message|>x<|end|>",
            "]~",
        ),
        *(
            "<think>`</think>`",
            "</",
            "<answer>",
            "\n```\n</think>\n",
            '"<|x|>"',
            " <eos> a",
            "<｜",
            " ",
            "◁think▷",
        ),
        *("<|im_start|>assistant\n", "Here is my thought process:", "[|", "<think>...", "analysis"),
    ],
)
def test_patterns_are_linear(piece: str) -> None:
    def taken(size: int) -> float:
        text = "x " + (piece * (size // len(piece) + 1))[:size]
        started = time.process_time()
        default_markup().clean(text)
        default_markup().leftover(text)
        return time.process_time() - started

    taken(1000)
    # A megabyte takes a second or two here; a quadratic pattern takes minutes for this much.
    assert taken(100_000) < 0.6
