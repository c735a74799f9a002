"""Thinking and control tokens in what a model wrote: taken out, and found where they were left.

A tag or token counts unless it is talked about: in code, in quotation marks or within a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from dlgforge_core.config import MarkupConfig
from dlgforge_core.llm import model_families as families

_BAR = "[|｜]"
# Kept short: a pattern over a megabyte must not look far at each place.
_PART = r"[a-z0-9]{1,20}[_:.-]"
_AFTER = r"[_:.-][a-z0-9]{1,20}"
_WORDS = "|".join(sorted(families.THINKING_WORDS, key=len, reverse=True))
_NAME = rf"(?:{_PART}){{0,3}}(?:{_WORDS})(?:{_AFTER}){{0,3}}"
_ATTRIBUTES = r"(?:\s[^<>\n]{0,200})?"
_CAPITALS = "THINK|THINKING|THOUGHT|THOUGHTS|REASONING|SCRATCHPAD|REFLECTION"
_TURNS = (
    rf"<{_BAR}[^\s<>|｜]{{1,80}}{_BAR}>",  # <|im_end|>, <｜end▁of▁sentence｜>
    r"<\|\w{1,40}>|<\w{1,40}\|>",  # <|turn>, <turn|>
    rf"\[{_BAR}[^\s\[\]|｜]{{1,40}}{_BAR}\]",  # [|endofturn|]
)
_CODE = r"```.*?```|~~~.*?~~~|``[^\n]{1,2000}?``|`[^`\n]{1,2000}`"
# Struck out text of a web page.
_STRUCK = r"(?!\A)<s>[^<>\n]{1,500}</s>|<s>[^<>\n]{1,500}</s>(?=\s*\w)"
_ROLES = "|".join(families.ANSWERING_ROLES)
# What begins an answer: tokens that begin a text or a turn, with the name of the role that answers.
_START = re.compile(
    rf"\s*(?:(?:<s>(?![^<>\n]{{1,500}}</s>\s*\w)|<bos>|<seed:bos>|\]~!b\[|\]~b\]|\[/INST\]|\[gMASK\]|<sop>|<start_of_turn>|<\|turn>"
    rf"|\[\|(?:{_ROLES})\|\]"
    rf"|<{_BAR}(?:im_start|start|begin\w{{0,20}}|start_\w{{0,30}}|begin▁of▁\w{{1,20}}|bom|message|end_header_id"
    rf"|end_of_role|role_end|im_middle|content|(?:{_ROLES}){_BAR}?|\w{{0,30}}(?:{_ROLES}))"
    rf"{_BAR}>)\s*(?:(?:{_ROLES})\b(?=\s*(?:\n|<|\||\[|$)))?)",
    re.IGNORECASE,
)
_QUOTES_BEFORE = frozenset("\"'“‘«„(「『")
_QUOTES_AFTER = frozenset("\"'”’»“).,;:?!」』")
_WITHIN = re.compile(r"[^\W_][,;]?[ \t]\Z")
_GOES_ON = re.compile(r"[ \t]{1,3}(?=[^\W\d_])[^A-Z\n][^\n]{0,120}[.?!:。？！]|[ \t]?[,;:?!)]")
# What stands in a cell of a table, or is what a line of a list or of a glossary is about.
_CELL = re.compile(r"\|[ \t]{0,8}\Z"), re.compile(r"[ \t]{0,8}\|")
_TERM = (
    re.compile(r"(?:^|\n)[ \t]{0,8}(?:(?:[-*+•]|\d{1,3}[.)])[ \t]{1,4})?\Z"),
    re.compile(r"[ \t]?[:–—]|[ \t]-[ \t]"),
)
# Code without a fence: List<Thought> thoughts.
_TYPE = re.compile(r"<[A-Z][a-z]\w*>")
_ELLIPSIS = re.compile(rf"\s*(?:\.{{3}}|…)\s*</{_NAME}>", re.IGNORECASE)


class Cleaned(NamedTuple):
    """What was said, and the thinking that stood beside it."""

    text: str
    reasoning: str


class Markup:
    """The thinking tags and control tokens to look for, those of the configuration included."""

    def __init__(self, config: MarkupConfig | None = None) -> None:
        config = config or MarkupConfig()
        self._remove = config.remove
        self._keep = frozenset(mark.lower() for mark in config.keep)
        names = [re.escape(tag) for tag in config.thinking_tags if " " not in tag]
        pairs = [*families.THINKING_PAIRS, *(tag.split() for tag in config.thinking_tags if " " in tag)]
        opening, closing = _thinking(names, pairs)
        thinking = f"(?P<open>{opening})|(?P<close>{closing})"
        token = f"(?P<token>{_control(config.control_tokens)})"
        first = {*"<[]◁`~", *(pair[0][0] for pair in pairs), *(pair[1][0] for pair in pairs)}
        first |= {mark[0] for mark in config.control_tokens}
        own = any(mark[0] == "<" for mark in (*config.thinking_tags, *config.control_tokens))

        def pattern(*parts: str) -> re.Pattern[str]:
            # Looking at the first characters alone is ten times as quick.
            begins = "".join(re.escape(c) for c in {*map(str.lower, first), *map(str.upper, first)})
            # An angle bracket by itself, or before a space, is none of these.
            look = f"(?=[{begins}])" + ("" if own else r"(?!<(?:[^\w/|｜<]|<[^S/]))")
            return re.compile(f"{look}(?:{'|'.join(parts)})", re.IGNORECASE | re.DOTALL)

        self._hint = re.compile("|".join(re.escape(c) for c in sorted(first - {"`", "~"})) + "|analysis")
        self._thinking = pattern(thinking)
        self._thinking_or_code = pattern(f"(?P<code>{_CODE})", thinking)
        self._tokens_or_code = pattern(f"(?P<code>{_CODE}|{_STRUCK})", token)
        self._marks_or_code = pattern(f"(?P<code>{_CODE}|{_STRUCK})", thinking, token)
        self._answer_tokens = _any_of(families.ANSWER_TOKENS)

    def clean(self, text: str) -> Cleaned:
        """`text` without thinking, up to its first control token."""
        if not self._remove or not self._hint.search(text):
            return Cleaned(text.strip(), "")
        text, thoughts = _harmony(text)
        answer, more = self._without_thinking(text)
        thoughts += more
        answer = self._answer_tokens.sub("", answer)
        if thoughts:
            answer = _unwrapped(answer)
        answer = self._up_to_control(answer)
        plain = (self._thinking.sub("", part).strip() for part in thoughts)
        return Cleaned(answer.strip(), "\n\n".join(part for part in plain if part))

    def without_thinking(self, text: str) -> str:
        """`text` without thinking, for JSON: what an object holds is data, and stays as it is."""
        text = text.strip()
        if not self._remove or text.startswith("{") or not self._hint.search(text):
            return text
        return self._without_thinking(_harmony(text)[0])[0].strip()

    def leftover(self, text: str) -> str:
        """Return the first tag of thinking or control token that was left in `text`; "" without any."""
        mark = next(self._found(self._marks_or_code, text), None)
        return mark[0] if mark else ""

    def _without_thinking(self, text: str) -> tuple[str, list[str]]:
        answer: list[str] = []
        thoughts: list[str] = []
        depth = begin = position = 0
        closed: re.Match[str] | None = None  # the last end within thinking that goes on
        reopened: re.Match[str] | None = None  # and the first beginning after it
        while mark := (self._thinking if depth else self._thinking_or_code).search(text, position):
            position = mark.end()
            if mark.lastgroup == "code":
                inner = self._end_within(mark)
                if inner is None:
                    continue
                mark, position = inner, inner.end()
            opens = mark.lastgroup == "open"
            if depth:
                depth += 1 if opens else -1
                if not opens:
                    closed, reopened = mark, None
                elif reopened is None:
                    reopened = mark
                if depth == 0:
                    thoughts.append(text[begin : mark.start()])
                    begin, closed, reopened = mark.end(), None, None
            elif self._is_mention(text, mark):
                if opens and (ellipsis := _ELLIPSIS.match(text, position)):
                    position = ellipsis.end()
            elif opens:
                answer.append(text[begin : mark.start()])
                depth, begin, closed, reopened = 1, mark.end(), None, None
            else:
                # Some chat templates open the thinking themselves, so that only its end is in the answer.
                thoughts.append("".join(answer) + text[begin : mark.start()])
                answer, begin = [], mark.end()
        if not depth:
            answer.append(text[begin:])
        elif closed is None:
            thoughts.append(text[begin:])  # cut before its end; nothing was said after it
        else:  # begun more often than ended
            thoughts.append(text[begin : closed.start()])
            answer.append(text[closed.end() : reopened.start() if reopened else None])
            if reopened:
                thoughts.append(text[reopened.end() :])
        return "".join(answer), thoughts

    def _end_within(self, code: re.Match[str]) -> re.Match[str] | None:
        """Return the end of thinking in what is no block of code: on a line of its own, without a start."""
        text = code.string
        if code[0].startswith(("```", "~~~")):
            for mark in self._thinking.finditer(text, code.start(), code.end()):
                if mark.lastgroup == "open":
                    return None
                if text[mark.start() - 1] == "\n" and text[mark.end() : mark.end() + 1] in ("\n", "\r"):
                    return mark
        return None

    def _up_to_control(self, text: str) -> str:
        begin = 0
        while (start := _START.match(text, begin)) and start.end() > begin:
            begin = start.end()
        end = next(self._found(self._tokens_or_code, text, begin), None)
        return text[begin : end.start() if end else None]

    def _found(self, pattern: re.Pattern[str], text: str, position: int = 0) -> Iterator[re.Match[str]]:
        """Yield the tags and tokens in `text` that are not spoken about."""
        while mark := pattern.search(text, position):
            position = mark.end()
            if mark.lastgroup == "code":
                continue
            if not self._is_mention(text, mark):
                yield mark
            elif mark.lastgroup == "open" and (ellipsis := _ELLIPSIS.match(text, position)):
                position = ellipsis.end()

    def _is_mention(self, text: str, mark: re.Match[str]) -> bool:
        """Whether a tag or token is spoken about."""
        token = mark[0]
        if self._keep and (token.lower() in self._keep or token.strip("</>[]").lower() in self._keep):
            return True
        before, after = text[mark.start() - 1 : mark.start()], text[mark.end() : mark.end() + 1]
        if before in _QUOTES_BEFORE and after in _QUOTES_AFTER:
            return True
        if before in ("*", "_") and after == before:
            return True
        if " " in token and _is_prose(text, mark):
            return True
        if before.isalnum() and mark.lastgroup == "open" and _TYPE.fullmatch(token):
            return _last(f"</{token[1:]}", text) < mark.end()
        if _stands_between(_CELL, text, mark):
            return True
        if "|" in token or "｜" in token or token[0] in "]◁":
            return False
        if mark.lastgroup == "token" and _stands_between(_TERM, text, mark):
            return True
        if not before.isspace() or before == "\n":
            return False
        if mark.lastgroup == "open" and _ELLIPSIS.match(text, mark.end()):
            return True
        return bool(
            _WITHIN.search(text[max(0, mark.start() - 4) : mark.start()]) and _GOES_ON.match(text, mark.end())
        )


def _is_prose(text: str, mark: re.Match[str]) -> bool:
    """Whether words that may begin thinking are words like any other: nothing ends it."""
    ends = (last for first, last in families.THINKING_PAIRS if first.lower() == mark[0].lower())
    return any(_last(end, text) < mark.end() for end in ends)


@lru_cache(maxsize=8)  # asked for each mark of a text
def _last(mark: str, text: str) -> int:
    """Where `mark` stands last in `text`; -1 without one."""
    found = re.finditer(re.escape(mark), text, re.IGNORECASE)
    return max((match.start() for match in found), default=-1)


def _stands_between(sides: tuple[re.Pattern[str], re.Pattern[str]], text: str, mark: re.Match[str]) -> bool:
    before, after = sides
    head = text[max(0, mark.start() - 16) : mark.start()]
    return bool(before.search(head) and after.match(text, mark.end()))


@lru_cache(maxsize=1)
def default_markup() -> Markup:
    """Return what is looked for without a configuration."""
    return Markup()


def _any_of(literals: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(literal) for literal in literals), re.IGNORECASE)


def _thinking(names: list[str], pairs: Iterable[Iterable[str]]) -> tuple[str, str]:
    """Patterns of what opens and of what closes thinking."""
    name = "|".join([_NAME, *names])
    openings, closings = zip(*((re.escape(first), re.escape(last)) for first, last in pairs), strict=True)
    special = rf"(?:[a-z0-9]{{1,20}}_){{0,2}}(?:{_WORDS})(?:_[a-z0-9]{{1,20}}){{0,2}}"
    opening = (
        rf"<(?:{name}){_ATTRIBUTES}>",
        rf"(?-i:\[(?:{_CAPITALS})\])",
        rf"◁(?:{_WORDS})▷",
        rf"<{_BAR}(?!/|end_){special}{_BAR}>",
        *openings,
    )
    closing = (
        rf"</\s?(?:{name})\s{{0,8}}>|<(?:{name})\s{{0,8}}/>",
        rf"(?-i:\[/(?:{_CAPITALS})\])",
        rf"◁/(?:{_WORDS})▷",
        rf"<{_BAR}(?:/|end_){special}{_BAR}>",
        *closings,
    )
    return "|".join(opening), "|".join(closing)


def _control(further: Iterable[str]) -> str:
    """Return a pattern of what ends a text."""
    return "|".join(
        (
            *(re.escape(token) for token in further),
            *_TURNS,
            rf"</?(?:{'|'.join(families.CONTROL_NAMES)}|s)>",
            rf"(?-i:\[/?(?:{'|'.join(families.CONTROL_BRACKETS)})\])",
            *(re.escape(token) for token in families.CONTROL_LITERALS),
        )
    )


def _unwrapped(text: str) -> str:
    """Return the answer within the tags that some models put around it after their thinking."""
    match = _WRAPPED.match(text)
    return text[match.end() :].replace(f"</{match[1]}>", "") if match else text


_WRAPPED = re.compile(rf"\s*<({'|'.join(families.ANSWER_TAGS)})>", re.IGNORECASE)

# Harmony, the format of gpt-oss: messages, each with a channel.
_HARMONY = re.compile(
    r"(?:<\|start\|>)?(?:\w{1,20})?(?:<\|channel\|>(?P<channel>[^<|]{0,200}))?"
    r"(?:<\|constrain\|>[^<|]{0,40})?<\|message\|>"
)
_HARMONY_END = re.compile(r"<\|(?:end|return|call|start)\|>")
# The same once a server has left its tokens out.
_HARMONY_BARE = re.compile(r"\s*analysis(?=[A-Z\s])(.*?)assistant\s?final(?=[^a-z])", re.DOTALL)


def _harmony(text: str) -> tuple[str, list[str]]:
    """Return what is said in the channel `final`, and what in the others."""
    if "<|message|>" not in text:
        bare = _HARMONY_BARE.match(text)
        return (text[bare.end() :], [bare[1]]) if bare else (text, [])
    answer: list[str] = []
    thoughts: list[str] = []
    position = 0
    for message in _HARMONY.finditer(text):
        if position == len(text):
            break
        if message.start() < position:
            continue
        before = text[position : message.start()]
        if not position and before.strip():
            # The template opened the first message itself.
            before = _HARMONY_END.split(before, maxsplit=1)[0]
            (thoughts if message["channel"] else answer).append(before)
        end = _HARMONY_END.search(text, message.end())
        stop = end.start() if end else len(text)
        channel = (message["channel"] or "final").split()
        (answer if not channel or channel[0].lower() == "final" else thoughts).append(
            text[message.end() : stop]
        )
        position = stop
    return "".join(answer), thoughts
