"""What servers of many makes send beside answers: ends, errors, pauses and refused parameters."""

from __future__ import annotations

import datetime
import email.utils
import math
import time
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import AgentConfig, RoutingConfig, validate
from dlgforge_core.dialogue import DropReason, Role
from dlgforge_core.errors import ConfigError, RunRefusedError
from dlgforge_core.llm import pauses, refusals
from dlgforge_core.llm.call_errors import CallError, RequestRefusedError
from dlgforge_core.llm.chat import request_body
from dlgforge_core.llm.dialect import Dialect, adapt, ask_for_less
from dlgforge_core.llm.endings import Endings
from dlgforge_core.llm.refusals import Blame
from dlgforge_core.llm.roles import RoleRecord
from dlgforge_core.llm.server_errors import (
    ErrorAnswer,
    error_within,
    is_content_filter,
    is_context_overflow,
    read_error,
)
from dlgforge_core.llm.stats import CallStats
from dlgforge_core.llm.structured import JsonMode
from dlgforge_core.llm.transport import HttpAnswer
from dlgforge_core.llm.vocabulary import Ending, Meaning, ending_of


def answer(body: Any, status: int = 400, **headers: str) -> HttpAnswer:
    raw = body.encode() if isinstance(body, str) else orjson.dumps(body)
    return HttpAnswer(status, httpx.Headers({k.replace("_", "-"): v for k, v in headers.items()}), raw)


def blame_of(error: ErrorAnswer) -> Blame:
    return refusals.judge(error, b"{}", pause_s=None, has_key=True, location="").blame


# Ends of answers


@pytest.mark.parametrize(
    ("reasons", "ending"),
    [
        (
            "stop eos eos_token end_turn COMPLETE STOP stop_sequence <|eot_id|> <｜end▁of▁sentence｜> </s>",
            "stop",
        ),
        ("FinishReason.STOP FINISH_REASON_STOP eosFound stopStringFound", "stop"),
        ("tool_calls tool_use function_call toolCalls", "tool_calls"),
        (
            "length max_tokens MAX_TOKENS model_length maxPredictedTokensReached contextLengthReached",
            "length",
        ),
        ("content_filter sensitive SAFETY PROHIBITED_CONTENT guardrail_intervened refusal", "content_filter"),
        (
            "error abort network_error insufficient_system_resource OTHER MALFORMED_FUNCTION_CALL failed",
            "error",
        ),
        ("FINISH_REASON_UNSPECIFIED not_finished timeout cancelled modelUnloaded pause_turn", "error"),
        ("no_idea 17 stopp <b", "unknown"),
    ],
)
def test_ends_of_answers_in_the_words_of_many_servers(reasons: str, ending: str) -> None:
    assert {reason: ending_of(reason).value for reason in reasons.split()} == dict.fromkeys(
        reasons.split(), ending
    )


def test_an_unknown_end_is_reported_once_and_may_be_given_a_meaning(caplog: pytest.LogCaptureFixture) -> None:
    endings = Endings({"Weird-End": "length"})
    assert endings.of("weird_end", "a").kind is Ending.LENGTH
    assert endings.of("other_end", "a").failure == endings.of("other_end", "a").failure == "unknown_end"
    assert caplog.text.count("'other_end', which dlgforge does not know") == 1
    with pytest.raises(ConfigError, match=r"'x' means 'end', which is none of content_filter"):
        validate(RoutingConfig, {"finish_reasons": {"x": "end"}}, "r.yaml")


@given(st.text(max_size=60))
@settings(max_examples=100)
def test_any_finish_reason_has_an_ending(reason: str) -> None:
    assert ending_of(reason) in Ending


# Errors


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "data_inspection_failed", "message": "no", "param": None}},
        {"code": "DataInspectionFailed", "message": "Input data may contain inappropriate content."},
        {"error": {"code": "invalid_prompt", "message": "Invalid prompt"}},
        {"error": {"code": "content_policy_violation", "type": "invalid_request_error", "message": "x"}},
        {"error": {"message": "Content Exists Risk", "code": "invalid_request_error"}},
        {"error": {"code": "400", "message": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        {"error": {"code": "content_filter", "message": "The response was filtered"}},
        {"message": "The request was blocked by our guardrail. Guardrail has intervened", "__type": "X"},
        {
            "error": {
                "code": 400,
                "status": "INVALID_ARGUMENT",
                "message": "x",
                "blockReason": "PROHIBITED_CONTENT",
            }
        },
        {"contentFilter": [], "error": {"code": "1301", "message": "unsafe"}},
        {"error": {"message": "The request was rejected because it was considered high risk"}},
        {"error": {"message": "sensitive words detected", "code": "sensitive_words_detected"}},
        {"error": {"message": 'litellm: {"error": {"code": "content_filter"}}', "code": "400"}},
        {
            "error": {
                "message": "Provider returned error",
                "metadata": {"raw": '{"code":"DataInspectionFailed"}'},
            }
        },
    ],
)
def test_filters_in_the_words_of_many_servers(body: Any) -> None:
    error = read_error(answer(body))
    assert is_content_filter(error)
    assert blame_of(error) is Blame.REQUEST


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Prompt is too long: 5000 tokens > 4096 maximum"}},
        {"error": {"code": "1261", "message": "Prompt 超长"}},
        {
            "error": {
                "message": "InternalError.Algo.InvalidParameter: Range of input length should be [1, 6000]"
            }
        },
        {"error": {"message": "Request too large for gpt-4o on tokens per min (TPM): Limit 10000"}},
    ],
)
def test_context_overflows_in_the_words_of_many_servers(body: Any) -> None:
    assert is_context_overflow(read_error(answer(body, 429 if "TPM" in str(body) else 400)))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"code": 429}}, 429),
        ({"error": {"code": "429", "message": "x"}}, 429),
        ({"error": {"status": 503, "message": "x"}}, 503),
        ({"error": {"type": "rate_limit_exceeded"}}, 429),
        ({"error": {"code": "insufficient_quota", "message": "x"}}, 402),
        ({"error": {"status": "RESOURCE_EXHAUSTED", "message": "x"}}, 429),
        ({"error": "Too many requests"}, 429),
        ({"error": "429 Too Many Requests"}, 429),
        ({"error": "Error code: 502 - bad gateway"}, 502),
        ({"error": "it broke"}, 500),
        (
            {"choices": [{"error": {"code": 502, "message": "x"}, "finish_reason": "error", "message": {}}]},
            502,
        ),
        ({"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, 429),
        ({"object": "error", "message": "no", "code": 400}, 400),
        ({"promptFeedback": {"blockReason": "SAFETY"}}, 400),
        ([{"error": {"code": 429, "message": "x"}}], 429),
    ],
)
def test_an_error_in_a_200_has_the_status_that_it_names(body: Any, status: int) -> None:
    error = error_within(orjson.dumps(body))
    assert error is not None
    assert error.status == status


def test_an_answer_is_no_error() -> None:
    message = {"role": "assistant", "content": 'He said {"error": {"code": 429}} and "detail": 1'}
    extras: list[dict[str, object]] = [{}, {"error": None}, {"error": {}}, {"base_resp": {"status_code": 0}}]
    for extra in extras:
        body = {"choices": [{"message": message, "finish_reason": "stop"}], **extra}
        assert error_within(orjson.dumps(body)) is None


def test_words_of_the_configuration_go_first() -> None:
    words = {"kein guthaben": Meaning.OUT_OF_CREDIT, "zu viel": Meaning.RATE_LIMIT}
    assert blame_of(read_error(answer({"error": "Kein Guthaben"}), words)) is Blame.SETUP
    assert blame_of(read_error(answer("Zu viel!"), words)) is Blame.OVERLOAD
    assert blame_of(read_error(answer("etwas"), words)) is Blame.REQUEST


_JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "code", "message", "detail", "loc", "choices", "metadata", "raw", "type"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(
    st.one_of(
        st.binary(max_size=200),
        _JSON.map(
            lambda v: orjson.dumps(v, default=str, option=orjson.OPT_NON_STR_KEYS) if _fits(v) else b""
        ),
    )
)
@settings(max_examples=100)
def test_any_error_body_is_read_and_judged(body: bytes) -> None:
    http = HttpAnswer(500, httpx.Headers(), body)
    for error in (read_error(http), error_within(body)):
        if error is not None:
            assert blame_of(error) in Blame
            adapt(Dialect(), error, _BODY)
    pause = pauses.pause_s(http)
    assert pause is None or 0 <= pause <= pauses.LONGEST_S


def _fits(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


def test_error_bodies_are_read_in_no_time_whatever_they_hold() -> None:
    started = time.monotonic()
    for body in (
        "{" * 30_000,
        '{"error":' * 3_000,
        "try again in " * 2_000,
        "temperature " * 2_000,
        "[]," * 9_000,
    ):
        error = read_error(answer(body))
        adapt(Dialect(), error, _BODY)
        pauses.pause_s(answer(body))
        error_within(body.encode())
    assert time.monotonic() - started < 10


# Pauses


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry_after": "1.5"}, 1.5),
        ({"retry_after": "2m30s"}, 150),
        ({"llm_provider_retry_after": "9"}, 9),
        ({"llm_provider_retry_after_ms": "900"}, 0.9),
        ({"x_ratelimit_reset_requests": "6m0s", "x_ratelimit_remaining_requests": "0"}, 360),
        (
            {
                "x_ratelimit_reset_requests": "8.64s",
                "x_ratelimit_remaining_requests": "0",
                "x_ratelimit_reset_tokens": "1h",
                "x_ratelimit_remaining_tokens": "900",
            },
            8.64,
        ),
        ({"x_ratelimit_reset_tokens": "17ms"}, 0.017),
        ({"ratelimit_reset": "30"}, 30),
        ({"retry_after": "9" * 5000}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "-7"}, 0),
        ({"retry_after": "1e400"}, None),
        ({"x_ratelimit_reset": "99999999999999999999"}, None),
    ],
)
def test_pauses_in_headers(headers: dict[str, str], wait_s: float | None) -> None:
    assert pauses.pause_s(answer({}, 429, **headers)) == wait_s


def test_pauses_until_a_time() -> None:
    at = time.time() + 40
    iso = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat()
    for value in (
        str(int(at)),
        str(int(at * 1000)),
        iso,
        iso.replace("+00:00", "Z"),
        email.utils.formatdate(at),
    ):
        for name in ("x_ratelimit_reset", "retry_after", "anthropic_ratelimit_tokens_reset"):
            assert pauses.pause_s(answer({}, 429, **{name: value})) == pytest.approx(40, abs=2), (name, value)


@pytest.mark.parametrize(
    ("body", "wait_s"),
    [
        ("Please retry after 9 seconds.", 9),
        ("Rate limit. Try again in 1m3.5s", 63.5),
        ("Please wait 2 minutes and 5 seconds before retrying", 125),
        ("Retry-After: 30", 30),
        ("请在9秒后重试", 9),
        ("retry_delay { seconds: 37 }", 37),
        ({"error": {"details": [{"@type": "x/RetryInfo", "retryDelay": "17s"}]}}, 17),
        ({"error": {"message": "x", "retry_after": 2.5}}, 2.5),
        ({"retry_after_ms": 1500}, 1.5),
        ("Try again in 2 other regions", None),
        ("please retry your request", None),
        ("retry after " + "9" * 5000 + " seconds", None),
    ],
)
def test_pauses_in_bodies(body: Any, wait_s: float | None) -> None:
    assert pauses.pause_s(answer(body, 429)) == wait_s


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80))
@settings(max_examples=100)
def test_any_header_is_a_pause_or_none(value: str) -> None:
    for name in ("retry-after", "x-ratelimit-reset", "retry-after-ms"):
        pause = pauses.pause_s(HttpAnswer(429, httpx.Headers({name: value}), value.encode()))
        assert pause is None or (math.isfinite(pause) and 0 <= pause <= pauses.LONGEST_S)


# Refused parameters

_SCHEMA = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 0, "maximum": 9},
        "s": {"type": "array", "minItems": 1},
    },
    "required": ["n", "s"],
    "additionalProperties": False,
}
_AGENT = AgentConfig(extra_body={"presence_penalty": 0.5, "top_k": 20})
_MESSAGES = [{"role": "user", "content": "Which temperature does bread need?"}]


def sent(dialect: Dialect, agent: AgentConfig = _AGENT) -> bytes:
    return request_body(dialect, agent, "m", _MESSAGES, seed=1, schema=_SCHEMA)


_BODY = sent(Dialect())


@pytest.mark.parametrize(
    ("body", "gone"),
    [
        (
            {"error": {"message": "`temperature` and `top_p` cannot both be specified for this model."}},
            "top_p",
        ),
        ({"error": {"message": "temperature and top_p cannot both be specified. Please use one."}}, "top_p"),
        ({"error": {"message": "`temperature` is deprecated for this model."}}, "temperature"),
        ({"error": {"message": "bad value", "param": "body.temperature"}}, "temperature"),
        ({"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "no", "input": 1}]}, "seed"),
        ({"detail": [{"loc": ["body", "top_k"], "msg": "Extra inputs are not permitted"}]}, "top_k"),
        (
            {"message": "gpt-5 models don't support temperature=0.8. Only temperature=1 is supported."},
            "temperature",
        ),
        (
            {"error": {"cause": '{"error": {"param": "temperature", "message": "no"}}', "code": 400}},
            "temperature",
        ),
        ({"error": {"message": 'Unknown name "presence_penalty": Cannot find field.'}}, "presence_penalty"),
        ({"error": {"message": "[seed] is not valid here"}}, "seed"),
        ({"error": {"message": "Range of max_tokens should be [1, 256]"}}, "max_tokens"),
        ({"error": {"message": "stream must not be sent", "param": "stream"}}, "stream"),
    ],
)
def test_a_refused_parameter_is_left_out_in_whatever_words(body: Any, gone: str) -> None:
    dialect = Dialect()
    error = read_error(answer(body))
    assert adapt(dialect, error, sent(dialect))
    assert set(orjson.loads(_BODY)) - set(orjson.loads(sent(dialect))) == {gone}
    assert any(gone in lesson for lesson in dialect.lessons())


@pytest.mark.parametrize(
    ("message", "gone"),
    [
        ("For 'integer' type, properties maximum, minimum are not supported", {"minimum", "maximum"}),
        ("Invalid schema for response_format: 'minItems' is not permitted", {"minItems"}),
        (
            'Unknown name "additionalProperties" at generation_config.response_schema',
            {"additionalProperties"},
        ),
    ],
)
def test_keywords_of_a_schema_are_left_out_before_the_schema(message: str, gone: set[str]) -> None:
    dialect = Dialect()
    assert adapt(dialect, read_error(answer({"error": {"message": message}})), sent(dialect))
    assert dialect.json_mode is JsonMode.JSON_SCHEMA
    left = sent(dialect).decode().partition("response_format")[2]
    assert not any(f'"{keyword}"' in left for keyword in gone)
    assert '"required"' in left


def test_with_nothing_named_everything_that_can_be_is_left_out_step_by_step() -> None:
    dialect = Dialect()
    steps = []
    while step := ask_for_less(dialect, sent(dialect)):
        steps.append(step)
        assert len(steps) < 20
    assert set(orjson.loads(sent(dialect))) == {"model", "messages"}
    assert steps[0].startswith("the schema's")
    assert steps.index("seed") < steps.index("temperature") < steps.index("response_format")


def test_null_leaves_a_parameter_out() -> None:
    agent = AgentConfig(
        temperature=None,
        top_p=None,
        max_tokens=None,
        extra_body={"seed": None, "response_format": None, "stream": None, "min_p": None},
    )
    assert set(orjson.loads(sent(Dialect(), agent))) == {"model", "messages", "min_p"}
    assert "JSON schema" in sent(Dialect(), agent).decode()
    with pytest.raises(ValueError, match="seed"):
        AgentConfig(extra_body={"seed": 5})
    with pytest.raises(ValueError, match="messages"):
        AgentConfig(extra_body={"messages": None})


# Roles


def test_a_role_that_was_never_answered_drops_nobody_and_stops_the_run_in_the_end() -> None:
    stats = CallStats()
    roles = RoleRecord(stats, expected_failures=2)
    overflow = CallError(DropReason.CONTEXT_OVERFLOW, "too long", "a")
    for index in range(11):
        in_doubt = roles.error_of(Role.ASSISTANT, f"d{index}", overflow)
        assert isinstance(in_doubt, RequestRefusedError)
        assert in_doubt.reason is DropReason.CONTEXT_OVERFLOW
    assert isinstance(roles.error_of(Role.ASSISTANT, "d3", overflow), RequestRefusedError), "the same again"
    assert isinstance(roles.error_of(Role.ASSISTANT, "d11", overflow), RunRefusedError)
    stats.of("b", Role.ASSISTANT).calls += 1
    assert roles.error_of(Role.ASSISTANT, "d12", overflow) is overflow
    assert isinstance(roles.error_of(Role.JUDGE, "d1", overflow), RequestRefusedError)
