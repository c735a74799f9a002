"""What servers of many makes say, as data: codes and words of errors, and reasons why an answer ends."""

from __future__ import annotations

import functools
import re
from enum import StrEnum
from typing import TypeVar

_T = TypeVar("_T")


class Meaning(StrEnum):
    """What an error means; the values are those of the key `llm.routing.error_words`."""

    RATE_LIMIT = "rate_limit"
    OUT_OF_CREDIT = "out_of_credit"
    KEY = "key"
    UNKNOWN_MODEL = "unknown_model"
    CONTEXT_OVERFLOW = "context_overflow"
    CONTENT_FILTER = "content_filter"
    SERVER = "server"
    REQUEST = "request"


class Ending(StrEnum):
    """How an answer ended; the values are those of the key `llm.routing.finish_reasons`."""

    STOP = "stop"
    TOOL_CALLS = "tool_calls"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    ERROR = "error"
    UNKNOWN = "unknown"


def squeeze(word: str) -> str:
    """Return a code or reason without case and separators: DataInspectionFailed is data_inspection_failed."""
    return re.sub(r"[\W_]+", "", word.casefold())


def _table(words: dict[_T, str]) -> dict[str, _T]:
    return {squeeze(word): kind for kind, text in words.items() for word in text.split()}


# Codes, types and statuses of errors. Three- and four-digit ones are those that a vendor uses for this alone
# (Zhipu's 1113 to 1305, MiniMax's 1004 to 2049).
CODES = _table(
    {
        Meaning.RATE_LIMIT: """
            429 rate_limit rate_limit_exceeded rate_limit_error rate_limited rate_limit_reached
            rate_limit_reached_error rate_limit_exceeded_error request_limit_exceeded
            requests_limit_exceeded tokens_limit_exceeded too_many_requests too_many_requests_error
            TooManyRequestsException resource_exhausted ThrottlingException throttling throttled
            throttling_error Throttling.RateQuota Throttling.BurstRate Throttling.AllocationQuota
            limit_requests limit_burst_rate engine_overloaded engine_overloaded_error overloaded
            overloaded_error ModelNotReadyException ServiceQuotaExceededException concurrency_limit_exceeded
            AccountRateLimitExceeded ServerOverloaded capacity_exceeded 529 1039 1302 1303 1305
        """,
        Meaning.OUT_OF_CREDIT: """
            402 insufficient_quota insufficient_user_quota insufficient_credits insufficient_balance
            insufficient_balance_error exceeded_current_quota_error payment_required billing_not_active
            billing_hard_limit_reached arrearage AccountOverdueError pre_consume_token_quota_failed
            quota_exhausted credit_exhausted billing_error 1008 1113
        """,
        Meaning.KEY: """
            401 invalid_api_key incorrect_api_key authentication_error invalid_authentication
            invalid_authentication_error unauthenticated unauthorized permission_denied permission_error
            AccessDeniedException access_denied account_deactivated UnrecognizedClientException
            api_key_invalid api_key_expired expired_api_key 1004 2049
        """,
        Meaning.UNKNOWN_MODEL: """
            model_not_found ModelNotFound unknown_model invalid_model model_not_exist DeploymentNotFound
            model_not_available model_decommissioned InvalidEndpointOrModel.NotFound 1211
        """,
        Meaning.CONTEXT_OVERFLOW: """
            context_length_exceeded context_window_exceeded exceed_context_size_error
            string_above_max_length model_context_window_exceeded ContextWindowExceededError tokens_too_long
            prompt_too_long request_too_large context_overflow 1261
        """,
        Meaning.CONTENT_FILTER: """
            content_filter content_filtered content_policy_violation ContentPolicyViolationError
            ResponsibleAIPolicyViolation data_inspection_failed invalid_prompt content_blocked
            prompt_blocked prompt_blocked_error prohibited_content blocked_reason_safety safety
            guardrail_intervened content_moderation moderation_blocked moderation_error flagged
            sensitive_words_detected sensitive_content sensitive_check_error SensitiveContentDetected
            InputTextSensitiveContentDetected OutputTextSensitiveContentDetected risk_content content_risk
            unsafe_content blocklist spii recitation model_armor 1026 1027 1301
        """,
        Meaning.SERVER: """
            500 502 503 504 408 server_error internal_server_error internal_error internal InternalFailure
            InternalServerException service_unavailable service_unavailable_error
            ServiceUnavailableException unavailable timeout timeout_error deadline_exceeded gateway_timeout
            bad_gateway api_error api_connection_error aborted cancelled unknown model_error
            ModelErrorException ModelTimeoutException upstream_error 1234
        """,
        Meaning.REQUEST: """
            400 422 invalid_request_error invalid_request bad_request bad_request_error BadRequestError
            invalid_argument invalid_parameter invalid_parameter_error InvalidParameter ValidationException
            unsupported_parameter unsupported_value unknown_parameter unsupported_params
            UnsupportedParamsError failed_precondition out_of_range 2013 1210 1213 1214 1215
        """,
    }
)

STATUSES = {
    Meaning.RATE_LIMIT: 429,
    Meaning.OUT_OF_CREDIT: 402,
    Meaning.KEY: 401,
    Meaning.UNKNOWN_MODEL: 404,
    Meaning.CONTEXT_OVERFLOW: 400,
    Meaning.CONTENT_FILTER: 400,
    Meaning.SERVER: 500,
    Meaning.REQUEST: 400,
}
"""The status that an error of this meaning comes with, where a server sends it in a 200."""

# Words of errors whose code tells nothing. Gaps are bounded, so that no text costs more than its length.
# Accounts go first: one that was closed for what it did is no text that was refused.
WORDS: tuple[tuple[Meaning, re.Pattern[str]], ...] = (
    (
        Meaning.OUT_OF_CREDIT,
        re.compile(
            r"(credit|account) balance is (too low|insufficient|negative|exhausted)"
            r"|insufficient (account )?(balance|credits?|funds)"
            r"|(out of|used all|no (available|remaining)) (available )?credits"
            r"|(spending|spend|billing|budget) (limit|cap) (has been |was )?(reached|exceeded)"
            r"|reach\w+ .{0,30}(spending|spend|billing) limit|余额不足|欠费",
        ),
    ),
    (
        Meaning.KEY,
        re.compile(
            r"(incorrect|invalid|expired|revoked|missing) api[ _-]?key"
            r"|api[ _-]?key .{0,20}(not valid|invalid|expired|revoked)"
            r"|\b(accounts?|organi[sz]ation|team|your access)( \S{0,20}\d\S{0,40})? "
            r"(is|has been|was|have been|were) (\w+ )?"
            r"(suspended|terminated|disabled|deactivated|banned|blocked|flagged|restricted|locked)",
        ),
    ),
    (
        Meaning.CONTENT_FILTER,
        re.compile(
            r"content[ _-]?filter|content[ _-]?policy"
            r"|content[ _-](management policy|exists risk|moderation|is blocked)"
            r"|data ?inspection|inappropriate (content|language|material)|considered high risk"
            r"|\bhigh[- ]risk (content|request|prompt)"
            r"|violat\w+ .{0,60}\b(usage|content|safety|use) (policy|policies|guidelines?|rules)"
            r"|flagged (as|by|for)\b|violat\w+ (the )?(\w+ )?guardrail|new_sensitive"
            r"|(unsafe|sensitive|prohibited|harmful) "
            r"(or \w+ )?(content|information|words?|material)|block_?reason|prompt (was|is|has been) blocked"
            r"|blocked by (the |a |our |your )?(\w+ )?(guardrail|safety|content|moderation|policy|filter)"
            r"|blocked by (\w+ ){1,4}guardrail"
            r"|guardrail\w* (has |have |was )?(intervened|blocked|triggered)|\bmoderation\b"
            r"|responsible ?ai|safety (system|filter|policy|check|settings)|prohibited[_ ]content"
            r"|敏感|违规|不合规|风险内容|安全(策略|审核)",
        ),
    ),
    (
        Meaning.CONTEXT_OVERFLOW,
        re.compile(
            r"context[ _-]?(length|size|window|limit)|max_model_len"
            r"|too many (input |prompt )?tokens(?!,? please wait| per )"
            r"|(prompt|input|request|messages?)( text| tokens?| data)? (is|are) too (long|large)"
            r"|request too large|exceed\w* (the )?(maximum|max|available) (number of )?"
            r"(input |prompt |message |allowed |total )?(tokens?|context|length|input|prompt)\b(?! per )"
            r"|range of input length|model token limit|max_tokens must be at least 1, got -"
            r"|tokens .{0,3}\+ .{0,3}max_new_tokens|inputs\W{1,2} must have less than"
            r"|(input|prompt) (tokens?|length) .{0,40}(exceeds?|must be (less|<)|longer than|larger than)"
            r"|maximum (input|prompt|sequence) (length|limit)|max_input_(length|tokens)|max_total_tokens"
            r"|longer than the (model|maximum|max)|上下文|超长",
        ),
    ),
    (
        Meaning.RATE_LIMIT,
        re.compile(
            r"rate[ _-]?limit|too many (concurrent )?requests|requests? (is|are|was|were) (being )?throttl"
            r"|slow down|(over|at) capacity|\boverloaded\b|try again (later|in)|retry (after|in)\b"
            r"|concurrency .{0,30}(limit|exceed)|请求过(于频繁|多)|限流",
        ),
    ),
)

# What takes from such words their meaning: parameters with such names, and filters that are out of order.
NOT_MEANT: dict[Meaning, re.Pattern[str]] = {
    Meaning.CONTENT_FILTER: re.compile(
        r"(unknown|unsupported|unrecogni[sz]ed|unexpected|extra) (request )?"
        r"(parameter|field|argument|property|inputs?|key)s?\b"
        r"|\b(parameter|field|argument|property)\b.{0,60}(not supported|not permitted|unknown|unrecogni)"
        r"|(filter|moderation|guardrails?|safety|checker) (\w+ ){0,3}"
        r"(is |are |has |was )?(currently |temporarily )?"
        r"(unavailable|timed? ?out|crashed|failed to|not (reachable|available))",
    ),
}

# Reasons why an answer ends, squeezed. "" is a server that tells none.
_ENDINGS = _table(
    {
        Ending.STOP: """
            stop stopped stop_sequence stop_token stop_str stop_string_found eos eos_token eos_found eot
            end_turn end_of_turn end end_of_text endoftext complete completed finish finished natural normal
            done success null none stop_criteria stopped_eos stopped_word
        """,
        Ending.TOOL_CALLS: "tool_calls tool_call tool_use function_call function_calls",
        Ending.LENGTH: """
            length max_tokens max_length max_output_tokens max_new_tokens max_completion_tokens token_limit
            token_limit_reached model_length context_length context_length_reached context_length_exceeded
            context_window_exceeded model_context_window_exceeded max_predicted_tokens_reached limit
            max_tokens_reached output_limit incomplete truncated error_limit stopped_limit
        """,
        Ending.CONTENT_FILTER: """
            content_filter content_filtered content_filtering content_policy content_policy_violation
            sensitive safety refusal recitation blocklist prohibited_content spii image_safety
            image_prohibited_content guardrail_intervened guardrail guardrails moderation blocked
            model_armor risk toxicity error_toxic jailbreak unsafe flagged language
        """,
        Ending.ERROR: """
            error abort aborted network_error insufficient_system_resource cancelled canceled cancel
            user_cancel user_stopped failed failure timeout timed_out time_limit timelimit deadline_exceeded
            internal_error server_error service_unavailable engine_error model_error model_unloaded
            overloaded rate_limit not_finished unfinished interrupted preempted disconnect disconnected
            other finish_reason_unspecified unspecified unknown malformed_function_call malformed_tool_use
            malformed_tool_call malformed_model_output malformed_response unexpected_tool_call
            too_many_tool_calls missing_thought_signature pause_turn pause repetition load unload no_image
        """,
    }
)

# The name of the token that ended it: </s>, <|im_end|>, <end_of_turn>, in full-width bars as well, [EOS].
_END_TOKEN = re.compile(r"</?[|｜]?[\w▁ .:/-]{1,40}[|｜]?>|\[/?(EOS|EOT|END|INST)\]", re.IGNORECASE)
# Enumerations are sent with the name of their type: FinishReason.STOP, FINISH_REASON_MAX_TOKENS.
_ENUM_PREFIX = re.compile(r"^(finish|stop|done)_?reason[._:]|^finish_reason_(?!unspecified)", re.IGNORECASE)


@functools.lru_cache(maxsize=256)  # servers give the same few over and over
def ending_of(finish_reason: str) -> Ending:
    """How an answer with this `finish_reason` ended; UNKNOWN for words that nobody has told us of."""
    reason = finish_reason.strip()
    if not reason or _END_TOKEN.fullmatch(reason):
        return Ending.STOP
    reason = _ENUM_PREFIX.sub("", reason)
    return _ENDINGS.get(squeeze(reason)) or _by_parts(reason)


# What the parts of an unknown reason tell: never that an answer is whole. The first that fits counts.
_PARTS = (
    (Ending.CONTENT_FILTER, {"safety", "policy", "moderation", "guardrail", "sensitive", "recitation"}),
    (Ending.ERROR, {"error", "failed", "failure", "abort", "aborted", "cancelled", "canceled", "timeout"}),
    (Ending.ERROR, {"rate", "time", "server", "shutdown", "network", "preempted", "evicted"}),
    (Ending.LENGTH, {"length", "max", "limit", "truncated", "budget"}),
)
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def _by_parts(reason: str) -> Ending:
    parts = {part.lower() for part in _PART.findall(reason)}
    if parts & {"stop", "end", "eos"}:
        return Ending.UNKNOWN
    return next((kind for kind, known in _PARTS if parts & known), Ending.UNKNOWN)
