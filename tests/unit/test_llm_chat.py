"""The chat completions protocol, and text made fit for a dialogue."""

import email.utils
import pickle
import time

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlgforge_core.config import AgentConfig
from dlgforge_core.dialogue import DropReason, Role
from dlgforge_core.llm import pauses, refusals, server_errors, text
from dlgforge_core.llm.call_errors import CallError, RequestRefusedError
from dlgforge_core.llm.chat import request_body
from dlgforge_core.llm.completions import read_completion
from dlgforge_core.llm.dialect import Dialect, adapt
from dlgforge_core.llm.refusals import Blame
from dlgforge_core.llm.server_errors import read_error
from dlgforge_core.llm.structured import JsonMode
from dlgforge_core.llm.transport import HttpAnswer

SCHEMA: dict[str, object] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
MESSAGES = [{"role": "user", "content": 'Is "temperature": 1 hot?'}]


def error(status: int, **fields: object) -> server_errors.ErrorAnswer:
    return read_error(HttpAnswer(status, httpx.Headers(), orjson.dumps({"error": fields})))


def body(dialect: Dialect, *, schema: dict[str, object] | None = None) -> bytes:
    return request_body(dialect, AgentConfig(), "m", MESSAGES, seed=1, schema=schema)


def test_a_copy_asks_for_less_on_its_own_and_knows_all_that_its_original_does() -> None:
    dialect = Dialect("max_completion_tokens", {"seed"}, {"pattern"}, tools=False, system_role=False)
    dialect.json_mode, dialect.tools_worked = JsonMode.JSON_OBJECT, True
    copy = dialect.copy()
    assert copy == dialect
    copy.unsupported.add("top_p")
    copy.unsupported_keywords.add("minimum")
    assert (dialect.unsupported, dialect.unsupported_keywords) == ({"seed"}, {"pattern"})
    dialect.answered.add(Role.JUDGE)
    dialect.state_fields.add("reasoning_content")
    assert copy.answered == {Role.JUDGE}
    assert copy.state_fields == {"reasoning_content"}


def test_newer_models_get_the_parameters_they_take() -> None:
    dialect = Dialect()
    refused = error(
        400,
        message="Unsupported parameter: 'max_tokens' is not supported with this model. "
        "Use 'max_completion_tokens' instead.",
        param="max_tokens",
        code="unsupported_parameter",
    )
    assert adapt(dialect, refused, body(dialect))
    assert "max_completion_tokens" in orjson.loads(body(dialect))
    assert "max_tokens" not in orjson.loads(body(dialect))
    refused = error(
        400,
        message="Unsupported value: 'temperature' does not support 0.8 with this model.",
        param="temperature",
    )
    assert adapt(dialect, refused, body(dialect))
    assert "temperature" not in orjson.loads(body(dialect))
    # Nothing more to change: the same words must not be sent for ever.
    assert not adapt(dialect, refused, body(dialect))


def test_other_complaints_change_nothing() -> None:
    dialect = Dialect()
    reported = error(400, message="messages must alternate between user and assistant")
    assert not adapt(dialect, reported, body(dialect))
    assert dialect == Dialect()


@pytest.mark.parametrize(
    "message",
    [
        "System role not supported",
        "Jinja Exception: System role not supported",
        "Only user and assistant roles are supported!",
        "Only user, assistant and tool roles are supported, got system.",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "Developer instruction is not enabled for models/gemma-3-27b-it",
        "messages[0]: system messages are not allowed",
        "This model does not support the system role",
    ],
)
def test_a_system_message_that_is_refused_is_folded_into_the_users_first(message: str) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        *MESSAGES,
        {"role": "assistant", "content": "Yes."},
    ]
    dialect = Dialect()
    sent = request_body(dialect, AgentConfig(), "m", messages, seed=1, schema=None)
    assert adapt(dialect, error(400, message=message), sent)
    sent = request_body(dialect, AgentConfig(), "m", messages, seed=1, schema=None)
    assert orjson.loads(sent)["messages"] == [
        {"role": "user", "content": f"Be kind.\n\n{MESSAGES[0]['content']}"},
        messages[2],
    ]
    assert not adapt(dialect, error(400, message=message), sent), "the same words must not be sent for ever"


@pytest.mark.parametrize(
    "message",
    [
        "Only system, user and assistant roles are supported!",
        "After the optional system message, conversation roles must alternate user/assistant",
        "The system is overloaded",
    ],
)
def test_other_words_about_roles_leave_the_system_message_where_it_is(message: str) -> None:
    sent = b'{"messages":[{"role":"system","content":"x"}]}'
    assert not server_errors.is_system_refusal(error(400, message=message), sent)


def test_json_is_asked_for_in_steps_and_two_calls_take_one_step() -> None:
    dialect = Dialect()
    refused = error(400, message="Invalid parameter: 'response_format'", param="response_format")
    first, second = body(dialect, schema=SCHEMA), body(dialect, schema=SCHEMA)
    assert orjson.loads(first)["response_format"]["json_schema"]["schema"] == SCHEMA
    assert adapt(dialect, refused, first)
    assert adapt(dialect, refused, second)
    assert dialect.json_mode is JsonMode.JSON_OBJECT
    third = body(dialect, schema=SCHEMA)
    assert orjson.loads(third)["response_format"] == {"type": "json_object"}
    assert '"required":["n"]' in orjson.loads(third)["messages"][-1]["content"]
    assert adapt(dialect, refused, third)
    last = body(dialect, schema=SCHEMA)
    assert "response_format" not in orjson.loads(last)
    assert not adapt(dialect, refused, last)


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
        "'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum context length is "
        "2048 tokens and your request has 1800 input tokens",
        "the request exceeds the available context size (2048 tokens), try increasing it",
        "prompt is too long: 210000 tokens > 200000 maximum",
    ],
)
def test_context_overflows_are_known_in_the_words_of_many_servers(message: str) -> None:
    assert server_errors.is_context_overflow(error(400, message=message))


def test_errors_are_read_in_the_shape_of_many_servers() -> None:
    def read(data: bytes) -> str:
        return str(read_error(HttpAnswer(500, httpx.Headers(), data)))

    assert read(b'{"error": {"message": "m", "code": 5}}') == "500: m"
    assert read(b'{"object": "error", "message": "m"}') == "500: m"
    assert read(b'{"error": "m"}') == "500: m"
    assert read(b'{"detail": "m"}') == "500: m"
    assert read(b'{"detail": [{"loc": 1}]}').startswith("500: [")
    assert read(b"<html>\n\nBad   gateway</html>") == "500: <html> Bad gateway</html>"
    assert read(b"") == "status 500"
    assert read(b"[1]") == "500: [1]"
    assert len(read(b"x" * 10_000)) < 400


@given(st.binary())
def test_any_body_is_a_completion_or_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="status 200"):
        read_completion(data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "usage", "timings", "prompt_tokens_details"]),
            inner,
        )
    ),
)


@given(_JSON)
def test_any_json_is_read_without_surprise(data: object) -> None:
    raw = orjson.dumps(data)
    read_error(HttpAnswer(400, httpx.Headers(), raw))
    try:
        answer = read_completion(raw)
    except ValueError:
        return
    assert isinstance(answer.text, str)
    assert isinstance(answer.refusal, str)


def test_usage_of_openai_vllm_and_llama_cpp() -> None:
    def read(**fields: object) -> tuple[int, int, int | None]:
        choice = {"message": {"content": "x"}, "finish_reason": "stop"}
        answer = read_completion(orjson.dumps({"choices": [choice], **fields}))
        return answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens

    usage = {"prompt_tokens": 9, "completion_tokens": 3}
    assert read() == (0, 0, None)
    assert read(usage=usage) == (9, 3, None)
    assert read(usage={**usage, "prompt_tokens_details": {"cached_tokens": 8}}) == (9, 3, 8)
    assert read(usage={**usage, "prompt_tokens_details": None}) == (9, 3, None)
    assert read(usage=usage, timings={"cache_n": 7}) == (9, 3, 7)


def test_retry_after_as_seconds_date_or_milliseconds() -> None:
    def read(**headers: str) -> float | None:
        return pauses.retry_after_s(httpx.Headers({k.replace("_", "-"): v for k, v in headers.items()}))

    assert read() is None
    assert read(retry_after="3") == 3.0
    assert read(retry_after="-3") == 0.0
    assert read(retry_after="soon") is None
    assert read(retry_after="20", retry_after_ms="1500") == 1.5
    assert read(retry_after=email.utils.formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=2)
    assert read(retry_after=email.utils.formatdate(0, usegmt=True)) == 0.0


@pytest.mark.parametrize(
    ("stated", "wait_s"),
    [
        ("Rate limit reached for gpt-4o on tokens per min (TPM). Please try again in 6.2s. Visit", 6.2),
        ("Please try again in 1m30s.", 90.0),
        ("Please try again in 8h0m12.5s.", 28812.5),
        ("Please try again in 350ms.", 0.35),
        ("* Quota exceeded for metric: x, limit: 15\nPlease retry in 2s.", 2.0),
        ("retry in 5 seconds", 5.0),
        ("try again in a moment", None),
        ("try again later", None),
    ],
)
def test_the_pause_that_is_asked_for_in_words(stated: str, wait_s: float | None) -> None:
    body = orjson.dumps([{"error": {"message": "x" * 400 + stated}}])
    assert pauses.pause_s(HttpAnswer(429, httpx.Headers(), body)) == wait_s
    assert pauses.pause_s(HttpAnswer(429, httpx.Headers({"retry-after": "7"}), body)) == 7.0


_GEMINI = {
    "code": 429,
    "message": "You exceeded your current quota, please check your plan and billing details.",
    "status": "RESOURCE_EXHAUSTED",
}


@pytest.mark.parametrize(
    ("fields", "pause_s", "blame"),
    [
        (_GEMINI, None, Blame.OVERLOAD),
        (_GEMINI, 2.0, Blame.OVERLOAD),
        ({"message": "add a card at /account/billing", "code": "rate_limit_exceeded"}, None, Blame.OVERLOAD),
        ({"message": "You exceeded your current quota", "code": "insufficient_quota"}, None, Blame.SETUP),
        ({"message": "You exceeded your current quota", "type": "insufficient_quota"}, None, Blame.SETUP),
        ({"message": "slow down", "type": "insufficient_quota"}, 3.0, Blame.OVERLOAD),
    ],
)
def test_only_an_empty_account_is_out_of_quota(
    fields: dict[str, object], pause_s: float | None, blame: Blame
) -> None:
    reported = read_error(HttpAnswer(429, httpx.Headers(), orjson.dumps([{"error": fields}])))
    refusal = refusals.judge(reported, b"{}", pause_s=pause_s, has_key=True, location="")
    assert refusal.blame is blame


def test_an_error_in_a_list_is_read() -> None:
    body = orjson.dumps([{"error": _GEMINI}])
    assert read_error(HttpAnswer(429, httpx.Headers(), body)).message == _GEMINI["message"]


def test_a_refused_request_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(RequestRefusedError("a", Role.JUDGE, "a: 400: no")))
    assert (copy.reason, copy.endpoint, copy.role) == (DropReason.ENDPOINT_ERROR, "a", Role.JUDGE)
    assert str(copy) == "a: 400: no"


def test_a_call_error_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(CallError(DropReason.REFUSED, "no")))
    assert (copy.reason, str(copy)) == (DropReason.REFUSED, "no")


# Text


@pytest.mark.parametrize(
    ("raw", "whole"),
    [
        ("One. Two. Thr", "One. Two."),
        ("It costs 3.50 and", ""),
        ('He said "yes." And th', 'He said "yes."'),
        ("- one\n- two\n- thr", "- one\n- two"),
        ("نعم. هل هذا صحيح؟ رب", "نعم. هل هذا صحيح؟"),
        ("第一句。第二句", "第一句。"),
        ("这是第一句\uff01这是第二", "这是第一句\uff01"),
        ("是吗\uff1f这是第二", "是吗\uff1f"),
        ("他说\u300c好的。\u300d然后", "他说\u300c好的。\u300d"),
        ("Look at foo?bar=1 and", ""),
        ("Run !ls and", ""),
        ("Do this:\n1. Look.\n\n2.", "Do this:\n1. Look."),
        ("Try:\n- a\n- ", "Try:\n- a"),
        ("Try:\n1) a\n2) **", "Try:\n1) a"),
        ("It has 3.\nWe", "It has 3."),
        ("1. ", ""),
    ],
)
def test_a_cut_text_is_shortened_to_whole_sentences(raw: str, whole: str) -> None:
    assert text.whole_sentences(raw) == whole


def test_garbage_is_distinguished_from_text() -> None:
    assert text.is_garbage("\ufffd\ufffd\ufffd ab")
    assert text.is_garbage("\x00\x01\x02abc")
    assert text.is_garbage("...")
    assert text.is_garbage("")
    for fine in ("Yes", "42", "مرحبا بكم", "¿Qué?\n\n- Sí\t☺", "a" * 99 + "\ufffd"):
        assert not text.is_garbage(fine)


def test_further_parameters_go_along_and_are_no_matter_of_what_was_refused() -> None:
    # Names of parameters within others: what is refused is another one, or is not sent at all.
    agent = AgentConfig(extra_body={"reasoning": {"max_tokens": 9, "seed": 1}, "min_p": 0.1})
    dialect = Dialect()
    reported = error(400, message="Unsupported parameter: 'seed' is not supported", param="seed")

    def body() -> bytes:
        return request_body(dialect, agent, "m", MESSAGES, seed=1, schema=None)

    assert orjson.loads(body()).items() >= agent.extra_body.items()
    assert adapt(dialect, reported, body())
    assert "seed" not in orjson.loads(body())
    assert not adapt(dialect, reported, body())
    longer = error(400, message="Use 'max_completion_tokens' instead.", param="max_tokens")
    assert adapt(dialect, longer, body())
    assert not adapt(dialect, longer, body())
    assert orjson.loads(body()).items() >= agent.extra_body.items()


def test_a_null_of_ours_is_left_out_and_any_other_is_sent() -> None:
    settings = AgentConfig(temperature=None, extra_body={"seed": None, "stop": None})
    sent = orjson.loads(request_body(Dialect(), settings, "m", MESSAGES, seed=3, schema=None))
    assert "stop" in sent
    assert sent["stop"] is None
    assert not {"temperature", "seed"} & sent.keys()
