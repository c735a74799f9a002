"""What a role said, without what models add to it: labels, lists, preambles, the form of quoted passages."""

from __future__ import annotations

import re
from itertools import pairwise

from dlgforge_core.prompting.passage_marks import FRAME, QUOTE_MARK

_ASKERS = (
    "user|human|question|q|usuario|pregunta|utilisateur|benutzer|nutzer|frage|utente|domanda|usuário|pergunta|"
    "пользователь|вопрос|用户|问题|ユーザー|質問|사용자|질문|المستخدم|مستخدم|السؤال|سؤال|صارف|سوال|उपयोगकर्ता|प्रश्न"
)
_ANSWERERS = (
    "assistant|ai|bot|answer|a|asistente|respuesta|réponse|assistent|antwort|risposta|resposta|ответ|ассистент|"
    "助手|回答|答案|アシスタント|답변|المساعد|مساعد|الجواب|جواب|الإجابة|उत्तर"
)
# Bold or not: "**Question:** ", "User: ", "سؤال:".
_ASKER = re.compile(rf"^[*_#\s]*(?:{_ASKERS})[*_\s]*[:：][*_]*\s*", re.IGNORECASE)
_ANSWERER = re.compile(rf"^[*_#\s]*(?:{_ANSWERERS})[*_\s]*[:：][*_]*\s*", re.IGNORECASE)
# An answer may well begin with these: "A: the first choice", "AI: artificial intelligence".
_NO_LABEL = re.compile(r"^[*_#\s]*(?:ai|bot|a)\b", re.IGNORECASE)
_LIST_MARK = re.compile(r"^(?:[-*•]|\(?\d{1,2}[.)])\s+")
_ASKS = re.compile(r"[?？؟;՞፧]\W*$")
_PREAMBLE = re.compile(r"[:：]\W*$")
_PREAMBLE_CHARS = 80
_QUOTES = (('"', '"'), ("“", "”"), ("«", "»"), ("'", "'"), ("„", "“"), ("「", "」"))

_QUOTED = re.compile(r"\s*(?:>|\[\d+\]\s*$)")
# A text that is one block of what is no code.
_FENCED = re.compile(
    r"```[ \t]*+(|text|plain|plaintext|txt|markdown|md)[ \t]*+\n(.*?)\n?```", re.DOTALL | re.IGNORECASE
)


def question_of(text: str) -> str:
    """Return the user's message in the user simulator's answer.

    It ends with the first line that asks, for small models go on with more questions or with an answer; where
    no line asks, or code is in it, it is kept whole. What stands before the question belongs to it, but for
    labels, list marks, quotation marks and a preamble ("Sure, here is a question:").
    """
    text = _unfenced(text.strip(), untagged=True)
    lines = [line.rstrip() for line in text.splitlines()]
    lines = _of_the_user(lines)
    if "```" not in text:
        asking = next((n for n, line in enumerate(lines) if _ASKS.search(line)), None)
        if asking is not None:
            lines = _without_preamble(lines[: asking + 1])
    question = "\n".join(lines).strip()
    question = _LIST_MARK.sub("", _ASKER.sub("", question), count=1).strip()
    return _unquoted(question) or text


def answer_of(text: str, *, grounded: bool = False) -> str:
    """Return what the assistant says in its answer.

    What goes is a label in front, with what follows for another speaker then; a block around all of it that
    is no code; quotation marks around all of it; and the form of quoted passages, see `without_quotes`.
    """
    answer = _unfenced(text.strip())
    label = _ANSWERER.match(answer)
    if label is not None and not _NO_LABEL.match(answer):
        lines = answer[label.end() :].splitlines()
        ends = (number for number, line in enumerate(lines) if number and _ASKER.match(line))
        answer = "\n".join(lines[: next(ends, len(lines))]).strip()
    return without_quotes(_unquoted(answer), grounded=grounded)


def _unfenced(text: str, *, untagged: bool = False) -> str:
    """Return a text out of the block around all of it; of an `untagged` one, which may be code, what asks."""
    found = _FENCED.fullmatch(text) if text.startswith("```") else None
    if found is None or "```" in found[2]:
        return text
    inner = found[2].strip()
    taken = found[1] or (untagged and _ASKS.search(inner))
    return inner if taken and inner else text


def _unquoted(text: str) -> str:
    """Return a text without the quotation marks around all of it."""
    for opening, closing in _QUOTES:
        inner = text[len(opening) : -len(closing)]
        whole = len(text) > 2 and text.startswith(opening) and text.endswith(closing)
        if whole and opening not in inner and closing not in inner:
            text = inner.strip()
    return text


def _of_the_user(lines: list[str]) -> list[str]:
    """Up to the line where the model goes on as somebody else, or as the user once more."""
    started = False
    for number, line in enumerate(lines):
        if started and (_ANSWERER.match(line) or _ASKER.match(line)):
            return lines[:number]
        started = started or bool(line.strip())
    return lines


def _without_preamble(lines: list[str]) -> list[str]:
    """Without a line that only says that a question comes, when the next one is it."""
    filled = [number for number, line in enumerate(lines) if line.strip()]
    for first, second in pairwise(filled[:2]):
        announces = _PREAMBLE.search(lines[first]) and len(lines[first]) <= _PREAMBLE_CHARS
        if announces and _ASKS.search(lines[second]):
            return lines[second:]
    return lines


def without_quotes(text: str, *, grounded: bool = False) -> str:
    """Return an answer without what it repeats of the passages' form.

    Frame and quoted lines go where the frame is repeated. In a `grounded` answer the mark of a quoted line
    goes elsewhere as well, outside of code.
    """
    if FRAME.search(text):
        kept = FRAME.sub("\n", text).splitlines()
        text = "\n".join(line for line in kept if not _QUOTED.match(line)).strip()
    if grounded and "```" not in text:
        text = QUOTE_MARK.sub("", text).strip()
    return text
