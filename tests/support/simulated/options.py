"""What a simulated endpoint can be told to do; every option may be set at the start and while it runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from tests.support.simulated.bodies import SPOILT
from tests.support.simulated.canned import check_replies

ROLES = ("qa_generator", "kb_responder", "qa_judge", "tool_simulator")

# The first group strikes at once and takes no slot, as a rate limiter does; the second, and every other
# HTTP status, after the whole service time.
IMMEDIATE_FAULTS = frozenset({"reset", "hang", "429", "503"})
SPOILING_FAULTS = frozenset({"garbage", "cut", "empty", "refusal", "length", "bad_json"})

JUDGE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "minimum": 0, "maximum": 10},
        "reasons": {
            "type": "array",
            "items": {"type": "string", "enum": ["accurate", "helpful", "clear"]},
            "minItems": 1,
            "uniqueItems": True,
        },
        "comment": {"type": "string"},
    },
    "required": ["score", "reasons", "comment"],
}

# Tells the user simulator from the assistant by the start of the first message.
USER_SIMULATOR_PATTERN = (
    r"user simulator|simulat\w+ (the |a |an )?user"
    r"|\b(play|plays|playing|act as|acting as|you are|you're|role of|part of|(write|speak|talk)(ing)? as)\s+"
    r"((?!assistant|expert|answer|help)[\w-]+\s+){0,4}(user|person|human|customer)\b(?!'s)"
    r"|\bask (a|one|the|your|another|exactly one|only one|only the)\b[^.\n]{0,30}\bquestion"
    r"|\bwrite\b[^.\n]{0,30}\buser('s)? (next )?(question|message|turn|side)"
)
# Tells a request for JSON that carries no response_format from talk about JSON.
JSON_REQUEST_PATTERN = (
    r"\b(answer|reply|respond|return|output|write|give|produce|emit|send)\b[^.\n]{0,80}\bJSON\b"
    r"|\bonly\b[^.\n]{0,20}\bJSON\b|\bJSON (object )?only\b|\b(as|in|valid) JSON\b"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Behaviour of the endpoint. Shares are between 0 and 1, times in seconds, `None` means no limit."""

    # Who may call, and what is served. No models: every name is served.
    api_key: str = field(default="", repr=False)
    models: tuple[str, ...] = ()
    listed: Mapping[str, Any] = field(default_factory=dict)  # of every model in the list: max_model_len, say
    base_path: str = "/v1"  # of the address, before /chat/completions
    query: str = ""  # that every address must have, Azure's api-version=2024-10-21 for one
    key_header: str = ""  # the only header that a key is taken from; "": Authorization or api-key
    json_schema_support: str = "json_schema"  # "json_schema" (and json_object), "json_object" or "none"
    system_role: bool = True  # false: 400 for a system message, in the words of Gemma's chat template
    usage: bool = True  # tell how many tokens were used
    context_tokens: int | None = None  # longer prompts get context_length_exceeded

    # Randomness: drawn from `seed` and the request's body (whatever the order of arrival, every repeat of
    # a body differing from the one before) or from `seed` and the count of calls.
    seed: int = 0
    seed_by: str = "body"  # "body" or "counter"

    # Service time: the mean and, if sigma is greater than 0, the sigma of a lognormal distribution.
    latency_s: float = 0.0
    latency_sigma: float = 0.0
    latency_by_role: Mapping[str, float] = field(default_factory=dict)  # means that differ from latency_s
    slow_factor: float = 1.0
    slots: int | None = None  # served at once; further calls queue
    capacity: int | None = None  # in flight at once, queued ones included; further calls get a 429

    # Faults: share by name. Names: an HTTP status ("429", "500", ...), "reset", "hang", "garbage", "cut",
    # "empty", "refusal", "length", and "bad_json", whose share is of the verdicts.
    faults: Mapping[str, float] = field(default_factory=dict)
    retry_after_s: float | None = None  # sent with every 429
    down: bool = False  # reset every connection; the admin routes go on

    # Quirks. `canned`: replies given as they are to the requests they are for, those whose body holds
    # `contains` and not `without` and has the key `sends`, every `every`th of them, `times` at most:
    # [{"contains": "bread", "status": 500, "headers": {}, "body": {...}}]. `finish_reasons`: share of the
    # answers that end with this reason, cut in the middle.
    canned: tuple[Mapping[str, Any], ...] = ()
    finish_reasons: Mapping[str, float] = field(default_factory=dict)
    streams: str = "never"  # "always", or "by_default": when a request does not say stream: false
    spoilt: str = ""  # of bodies: "surrogate", "half_utf8", "nan", "newline", "bom", "trailing" or "parts"
    # A field of the provider's own that comes with tool calls, "reasoning_content" or "extra_content", and
    # without which their messages are refused.
    state_field: str = ""

    # What is said.
    question_words: tuple[str, ...] = ()  # questions are 14 of these
    duplicate_rate: float = 0.0  # share of the user simulator's questions that repeat an earlier one
    # The user simulator ends the conversation where it may, if the first message, who it plays, matches.
    user_ends: str = ""
    answer_words: int = 40  # below 10 words, answers are no longer sure to be unique
    # May hold {text}, {role}, {model}, {temperature} and {last}, the end of the prompt.
    text_template: str = "{text}"
    recorded: str = ""  # file of answers that a model gave, given again to the prompts they belong to
    writes_forms: bool = True  # answers in a form between tags, where one is asked for
    verdict: Mapping[str, Any] = field(default_factory=dict)  # fields that win over the generated ones
    scores: Mapping[str, int] = field(default_factory=dict)  # of answers that hold a text, the first found
    default_schema: Mapping[str, Any] = field(default_factory=lambda: JUDGE_SCHEMA)  # none in the request

    # Tool calls, when a request offers tools: "ignored" (text as ever), "once" (a call, and text after its
    # result), "always" (a call whenever tools are offered), "refused" (400 for tools and for messages of
    # tools, in the words of a vLLM without --enable-auto-tool-choice) or "unreadable" (500 when tools are
    # offered: the server cannot read the call its model made, in llama.cpp's words).
    # `tool_script` takes the place of that: calls by the turn, from 1, of the conversation in which they are
    # made, a list for each round, and optionally a text that the prompt must hold:
    # [{"turn": 1, "contains": "", "rounds": [[{"name": "find", "arguments": {}}]]}]. `tool_results` are what
    # the tool simulator answers to a prompt that holds a text: [{"contains": "Call: find", "answer": {}}].
    tool_script: tuple[Mapping[str, Any], ...] = ()
    tool_results: tuple[Mapping[str, Any], ...] = ()
    tool_calls: str = "ignored"
    tool_call_share: float = 1.0  # of the conversations, chosen by their content
    tool_calls_at_once: int = 1
    tool_name: str = ""  # called instead of one that was offered
    tool_arguments: str | None = None  # sent as they are, broken JSON for example; None: valid ones

    # Reasoning sent beside the text (of plain text answers and tool calls), and the field that holds it:
    # "reasoning_content", "reasoning", or "think" for a <think> block before the text.
    reasoning: str = ""
    reasoning_field: str = "reasoning_content"

    # Embeddings, reranking and web search. They take no slot and none of `faults`.
    embedding_dimensions: int = 64
    embedding_batch: int | None = None  # texts in one request; more get a 400
    retrieval_latency_s: float = 0.0
    retrieval_faults: Mapping[str, float] = field(default_factory=dict)  # share by HTTP status or "reset"
    search_key: str = field(default="", repr=False)  # wanted in X-API-KEY; a 403 without it
    search_snippet: str = ""  # of every web result, instead of made-up words

    # Telling the roles apart: by model, else a request for JSON is the judge's, else by the first message.
    role_models: Mapping[str, str] = field(default_factory=dict)  # model -> role
    user_simulator_pattern: str = USER_SIMULATOR_PATTERN
    json_request_pattern: str = JSON_REQUEST_PATTERN

    # Memory.
    prefix_cache_entries: int = 65_536  # message prefixes remembered, least recently used dropped first
    record_requests: int = 0  # latest requests kept, to be read in the stats

    def __post_init__(self) -> None:
        """Raise ValueError naming the option, its value and what would be right."""
        object.__setattr__(self, "models", tuple(self.models))
        object.__setattr__(self, "question_words", tuple(self.question_words))
        object.__setattr__(self, "canned", tuple(self.canned))
        object.__setattr__(self, "tool_script", tuple(self.tool_script))
        object.__setattr__(self, "tool_results", tuple(self.tool_results))
        check_replies(self.canned)
        _choice("streams", self.streams, ("never", "always", "by_default"))
        _choice("spoilt", self.spoilt, ("", *SPOILT))
        _choice("state_field", self.state_field, ("", "reasoning_content", "extra_content"))
        for reason, share in self.finish_reasons.items():
            _share(f"finish_reasons[{reason}]", share)
        object.__setattr__(self, "faults", {str(name): share for name, share in self.faults.items()})
        _choice("json_schema_support", self.json_schema_support, ("json_schema", "json_object", "none"))
        _choice("seed_by", self.seed_by, ("body", "counter"))
        for name in ("latency_s", "latency_sigma", "slow_factor"):
            _at_least(name, getattr(self, name), 0)
        for name, least in (("slots", 1), ("capacity", 1), ("context_tokens", 1), ("retry_after_s", 0)):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), least)
        for name, least in (("answer_words", 1), ("prefix_cache_entries", 1), ("record_requests", 0)):
            _at_least(name, getattr(self, name), least)
        if self.record_requests > 10_000:
            raise ValueError(
                f"record_requests = {self.record_requests}: keep at most 10000, memory is bounded"
            )
        _share("duplicate_rate", self.duplicate_rate)
        self._check_tools_and_retrieval()
        for role in (*self.latency_by_role, *self.role_models.values()):
            _choice("role", role, ROLES)
        for role, mean in self.latency_by_role.items():
            _at_least(f"latency_by_role[{role}]", mean, 0)
        self._check_faults()
        for name in ("user_simulator_pattern", "json_request_pattern"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                raise ValueError(f"{name} is not a regular expression: {error}") from None
        try:
            self.text_template.format(text="", role="", model="", temperature="", last="")
        except (KeyError, IndexError, ValueError):
            raise ValueError(
                f"text_template = {self.text_template!r}: use only {{text}}, {{role}}, {{model}}, "
                "{temperature} and {last}"
            ) from None

    def _check_tools_and_retrieval(self) -> None:
        _choice("tool_calls", self.tool_calls, ("ignored", "once", "always", "refused", "unreadable"))
        _share("tool_call_share", self.tool_call_share)
        _at_least("tool_calls_at_once", self.tool_calls_at_once, 1)
        _choice("reasoning_field", self.reasoning_field, ("reasoning_content", "reasoning", "think"))
        _at_least("embedding_dimensions", self.embedding_dimensions, 1)
        if self.embedding_batch is not None:
            _at_least("embedding_batch", self.embedding_batch, 1)
        _at_least("retrieval_latency_s", self.retrieval_latency_s, 0)
        object.__setattr__(self, "retrieval_faults", {str(n): s for n, s in self.retrieval_faults.items()})
        for name, share in self.retrieval_faults.items():
            _share(f"retrieval_faults[{name}]", share)
            if name != "reset" and not re.fullmatch("[45][0-9][0-9]", name):
                raise ValueError(
                    f"retrieval_faults: unknown fault {name!r}; known: a status 400 to 599, reset"
                )

    def _check_faults(self) -> None:
        for name, share in self.faults.items():
            _share(f"faults[{name}]", share)
            if name not in IMMEDIATE_FAULTS | SPOILING_FAULTS and not re.fullmatch("[45][0-9][0-9]", name):
                known = ", ".join(sorted(IMMEDIATE_FAULTS | SPOILING_FAULTS))
                raise ValueError(f"faults: unknown fault {name!r}; known: a status 400 to 599, {known}")
        total = sum(share for name, share in self.faults.items() if name != "bad_json")
        if total > 1 + 1e-9:
            raise ValueError(f"faults: the shares add up to {total:g}; they may reach 1 (bad_json apart)")

    def updated(self, changes: Mapping[str, Any]) -> Options:
        """Return a copy with `changes` applied; raise ValueError for names or values that cannot be."""
        unknown = sorted(set(changes) - {f.name for f in fields(self)})
        if unknown:
            known = ", ".join(f.name for f in fields(self))
            raise ValueError(f"unknown options: {', '.join(unknown)}; known: {known}")
        try:
            return replace(self, **changes)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"an option has the wrong type: {error}") from None


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} = {value!r}: choose from {', '.join(known)}")


def _at_least(name: str, value: float, least: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
        raise ValueError(f"{name} = {value!r}: give a number, {least} or more")


def _share(name: str, value: float) -> None:
    _at_least(name, value, 0)
    if value > 1:
        raise ValueError(f"{name} = {value!r}: a share is between 0 and 1")
