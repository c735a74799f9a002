"""Errors whose words are alike and mean different things: filters, accounts, parameters, limits."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest

from dlgforge_core.llm import pauses, refusals
from dlgforge_core.llm.refusals import Blame
from dlgforge_core.llm.server_errors import error_within, is_content_filter, is_context_overflow, read_error
from dlgforge_core.llm.transport import HttpAnswer
from dlgforge_core.llm.vocabulary import Meaning, ending_of


def kind_of(status: int, body: Any) -> str:
    answer = HttpAnswer(status, httpx.Headers(), orjson.dumps(body))
    error = error_within(answer.body) if status == 200 else read_error(answer)
    assert error is not None
    blame = refusals.judge(error, b"{}", pause_s=pauses.pause_s(answer), has_key=True, location="").blame
    if blame is not Blame.REQUEST:
        return blame.name.lower()
    return "context" if is_context_overflow(error) else "filter" if is_content_filter(error) else "request"


def message(text: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": text, **fields}}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"choices": None, "base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"}}),
        (400, {"error": {"code": "InputTextSensitiveContentDetected.PolicyViolation", "message": "failed"}}),
        (400, message("litellm.ContentPolicyViolationError: the response was filtered", code="400")),
        (400, message("Violated guardrail policy", type="None", code="400")),
        (446, {"detail": "request was blocked by Prisma AIRS guardrail"}),
        (403, message('Your input was flagged for "violence". No credits were charged.', code=403)),
        (403, {"error": "Content violates usage guidelines. Team: 1, Failed check: SAFETY_CHECK_TYPE_BIO"}),
        (
            400,
            {
                "choices": [
                    {
                        "finish_reason": "content_filter",
                        "content_filter_results": {"error": {"code": "content_filter", "message": "x"}},
                    }
                ]
            },
        ),
    ],
)
def test_filters(status: int, body: Any) -> None:
    assert kind_of(status, body) == "filter"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, message("extra field content_filter: not permitted"), "request"),
        (400, message("Unknown parameter: 'content_filter'"), "request"),
        (400, message("parameter 'moderation' is not supported with this model"), "request"),
        (500, message("Content moderation service timed out"), "endpoint"),
        (500, message("safety checker crashed"), "endpoint"),
        (503, message("Guardrail is currently unavailable"), "endpoint"),
        (403, message("Your account has been flagged for unusual activity"), "setup"),
        (403, message("Your account was suspended for violating our usage policies"), "setup"),
        (400, message("This organization has been disabled."), "setup"),
    ],
)
def test_what_speaks_of_filters_and_is_none(status: int, body: Any, kind: str) -> None:
    assert kind_of(status, body) == kind


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, message("Your credit balance is too low to access the API.", type="invalid_request_error")),
        (400, {"error": {"code": "Arrearage", "message": "Access denied, good standing."}}),
        (412, message("Account is suspended, possibly due to reaching the monthly spending limit")),
        (200, {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}),
        (
            400,
            message("API key not valid.", status="INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}]),
        ),
        (400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: x."}),
        (200, {"base_resp": {"status_code": 2049, "status_msg": "login"}}),
    ],
)
def test_keys_and_accounts_whatever_the_status(status: int, body: Any) -> None:
    assert kind_of(status, body) == "setup"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (422, {"error": "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000"}, "context"),
        (422, {"error": "Input validation error: `inputs` must have less than 1024 tokens"}, "context"),
        (400, message("Your request exceeded model token limit: 131072"), "context"),
        (400, message("max_tokens must be at least 1, got -20."), "context"),
        (
            400,
            message("The input token count (12) exceeds the maximum number of tokens allowed (8)"),
            "context",
        ),
        (429, {"message": "Too many tokens, please wait before trying again."}, "overload"),
        (429, message("You exceeded the token limit: too many tokens per day"), "overload"),
        (400, message("temperature: exceeds the maximum value 1.0"), "request"),
        (400, message("max_completion_tokens exceeds the maximum output tokens for the model"), "request"),
        (498, message("Flex tier", type="capacity_exceeded"), "overload"),
        (400, message("x", type="invalid_model"), "model"),
        (424, message("Failed generation", type="generation"), "endpoint"),
    ],
)
def test_limits_of_context_minute_and_parameter(status: int, body: Any, kind: str) -> None:
    assert kind_of(status, body) == kind


@pytest.mark.parametrize(
    ("reasons", "ending"),
    [
        ("stopped_eos stopped_word", "stop"),
        ("stopped_limit CONTENT_LENGTH max_seq_len maxContextTokens", "length"),
        ("IMAGE_RECITATION ResponsibleAIPolicyViolation safety_filter contentModeration", "content_filter"),
        ("internal_server_error tool_calls_failed serverShutdown rate_limit_hit", "error"),
        ("end_of_budget weird stop_error", "unknown"),
    ],
)
def test_unknown_ends_are_known_by_their_parts_but_never_taken_as_whole(reasons: str, ending: str) -> None:
    assert {reason: ending_of(reason).value for reason in reasons.split()} == dict.fromkeys(
        reasons.split(), ending
    )


@pytest.mark.parametrize(
    ("headers", "body", "wait_s"),
    [
        ({"ratelimit": '"default";r=0;t=33'}, {}, 33),
        ({"ratelimit": "limit=100, remaining=0, reset=12"}, {}, 12),
        ({}, {"error": {"message": "x", "metadata": {"headers": {"X-RateLimit-Reset": "40"}}}}, 40),
        ({}, {"error": "Model is loading", "estimated_time": 20.0}, 20),
        ({}, {"error": {"message": "Retry your request after 15 seconds"}}, 15),
        ({}, {"error": {"message": "next request allowed in 45 seconds"}}, 45),
        ({}, {"error": {"message": "try again", "code": 429}}, None),
    ],
)
def test_pauses(headers: dict[str, str], body: Any, wait_s: float | None) -> None:
    assert pauses.pause_s(HttpAnswer(429, httpx.Headers(headers), orjson.dumps(body))) == wait_s


@pytest.mark.parametrize(("words", "wait_s"), [("请在9秒后重试", 9), ("请求过多，10 秒后再试", 10)])
def test_pauses_in_words_that_are_escaped(words: str, wait_s: float) -> None:
    body = b'{"error": {"message": "' + words.encode("unicode_escape") + b'"}}'
    assert pauses.pause_s(HttpAnswer(429, httpx.Headers(), body)) == wait_s


def test_a_parameter_named_like_a_filter_means_nothing() -> None:
    assert read_error(HttpAnswer(400, httpx.Headers(), b"unknown parameter: content_filter")).meaning is None
    blocked = read_error(HttpAnswer(400, httpx.Headers(), b"blocked by content filter"))
    assert blocked.meaning is Meaning.CONTENT_FILTER


def test_a_200_with_very_many_values_is_not_looked_through_for_an_error() -> None:
    many = b"[" + b"[]," * 500_000 + b"[]]"
    assert error_within(b'{"error": "x", "data": []}') is not None
    assert error_within(b'{"error": "x", "data": ' + many + b"}") is None
