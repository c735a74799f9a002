"""Text from documents in a prompt: data, whatever it says.

A passage is quoted line by line, as in a mail: no line of it can then open or close a block, or look like
the line of a role ("System: ..."). What remains are the control tokens of chat templates, which count
wherever they stand: of these the first character is replaced by one that looks alike. Nothing else changes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from dlgforge_core.llm import model_families as families

OPENING = "<passages>"
CLOSING = "</passages>"

# Some tokenizers normalise their input (NFKC), so that these are angle brackets and bars to them.
_LT = "[<＜﹤]"
_BAR = "[|｜]"
_NOT_IN_NAME = r"\s‹<>＜＞﹤﹥|｜"
_NAMED = (
    rf"s|mask|sep|cls|{'|'.join(families.CONTROL_NAMES)}|(?:start|end)_of_\w{{1,40}}|"
    rf"(?:[a-z0-9]{{1,20}}[_:])?(?:{'|'.join(families.THINKING_WORDS)})|"
    r"(?:seed|minimax|antml):\w{1,40}|\w{1,20}:tool_\w{1,20}|"
    # Not List<User>, a type in code.
    r"(?-i:system|user|assistant|human|model|bot|instructions?|context|documents?|tools?|functions?)|"
    r"passages?|tool_\w{1,40}"
)
_TOKENS = re.compile(
    "|".join(
        (
            # <|im_start|>, <|eot_id|>, <｜User｜>, <|turn>, <turn|>
            rf"{_LT}(?={_BAR}[^{_NOT_IN_NAME}]{{1,80}}{_BAR}?[>＞﹥])",
            rf"{_LT}(?=[^{_NOT_IN_NAME}]{{1,80}}{_BAR}[>＞﹥])",
            # <s>, </s>, <start_of_turn>, </passages>, with attributes as well
            rf"{_LT}(?=\s{{0,8}}/?\s{{0,8}}(?:{_NAMED})(?:\s[^‹<>]{{0,200}})?\s{{0,8}}/?[>＞﹥])",
            # <<SYS>>, <</SYS>>
            rf"{_LT}(?={_LT}/?\w{{1,20}}[>＞﹥]{{2}})",
            # [INST], [/INST], [SYSTEM_PROMPT], [TOOL_CALLS], [gMASK]
            rf"[\[［](?=/?(?:{'|'.join(families.CONTROL_BRACKETS)}|SYSTEM|TOOL_\w{{1,20}}|CLS|SEP|MASK|"
            r"IMG\w{0,12}|THINK|PREFIX|SUFFIX|MIDDLE|AUDIO)[\]］])",
            # [|user|], [|endofturn|]
            rf"[\[［](?={_BAR}[^\s\[\]|｜]{{1,40}}{_BAR}[\]］])",
            # MiniMax: ]~b], ]~!b[, [e~[
            r"[\]］](?=~!?b[\[\]])|[\[［](?=e~[\[\]])",
            rf"◁(?=/?(?:{'|'.join(families.THINKING_WORDS)})▷)",
        )
    ),
    re.IGNORECASE,
)
_LOOKS_LIKE = str.maketrans(
    {"<": "‹", "＜": "‹", "﹤": "‹", "[": "⟦", "［": "⟦", "]": "⟧", "］": "⟧", "◁": "◃"}
)
_FIRST_OF_TOKENS = tuple(map(chr, _LOOKS_LIKE))
_LINE_END = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
# Tag characters spell ASCII that nobody sees.
_INVISIBLE = re.compile("[\U000e0000-\U000e007f]")


def neutralise(text: str) -> str:
    """`text` without the control tokens of chat templates, control characters and invisible tag characters.

    Line ends of every kind become plain ones. Ordinary prose and code stay as they are.
    """
    if not text.replace("\n", "").isprintable():
        lines = _LINE_END.sub("\n", _INVISIBLE.sub("", text)).split("\n")
        text = "\n".join(line if line.isprintable() else _printable(line) for line in lines)
    if not any(map(text.__contains__, _FIRST_OF_TOKENS)):  # a hundredth of the time that `_TOKENS` takes
        return text
    return _TOKENS.sub(lambda match: match[0].translate(_LOOKS_LIKE), text)


def _printable(line: str) -> str:
    return "".join(c for c in line if c == "\t" or unicodedata.category(c) not in ("Cc", "Cs"))


def quote_passages(texts: Sequence[str]) -> str:
    """Passages as a block of a prompt; empty without any.

    <passages>
    [1]
    > first line of the first passage
    </passages>
    """
    if not texts:
        return ""
    blocks = [f"[{n}]\n{quote(text)}" for n, text in enumerate(texts, 1)]
    return "\n".join((OPENING, *blocks, CLOSING))


def quote(text: str) -> str:
    """Text as quoted lines, neutralised."""
    return "\n".join(f"> {line}" if line else ">" for line in neutralise(text).split("\n"))
