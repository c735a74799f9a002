"""Texts as they read once escapes, percent codes, entities, base64, hex and lists of numbers are decoded.

For finding a key however it is spelled: each decoded form knows which part of the text its characters come
from. Decoders are applied to what others have decoded, for a bounded number of rounds, each in linear time.
"""

from __future__ import annotations

import binascii
import html
import re
import string
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

_ROUNDS = 6
"""How often escapes are undone, one round after another: JSON in JSON in a URL."""
_DEPTH = 2
"""How deep base64, hex and numbers are decoded within each other."""
_MOST_UNPACKED = 4 * 1024 * 1024
"""Characters of base64, hex and numbers that are decoded for one text."""

_HEX = "[0-9A-Fa-f]"
_URL_OR_HTML = (
    rf"%(?:u{_HEX}{{4}}|{_HEX}{{2}})"
    rf"|&(?:\#0*[0-9]{{1,7}};?|\#[xX]0*{_HEX}{{1,6}};?|[A-Za-z][A-Za-z0-9]{{1,31}};)"
)
_BACKSLASHED = (
    rf"\\(?:[ux]\{{0*{_HEX}{{1,6}}\}}|u{_HEX}{{4}}|U{_HEX}{{8}}|x{_HEX}{{2}}|[0-3]?[0-7]{{1,2}}|\r?\n|.)"
)
_CODES = re.compile(f"{_URL_OR_HTML}|{_BACKSLASHED}", re.DOTALL)
# Where backslashes are characters.
_NO_BACKSLASHES = re.compile(_URL_OR_HTML)
# Apart from the others: in `?key=ab12` the characters after "=" are no code.
_QUOTED_PRINTABLE = re.compile(rf"=(?:{_HEX}{{2}}|\r?\n)")
_ALL_CODES = re.compile(f"{_CODES.pattern}|{_QUOTED_PRINTABLE.pattern}", re.DOTALL)
_ALL_BUT_BACKSLASHES = re.compile(f"{_URL_OR_HTML}|{_QUOTED_PRINTABLE.pattern}")
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v", "a": "\a"}
# What JSON holds for the most part. Characters of the private use area stand for pairs of backslashes.
_PLAIN_JSON = (("\\\\", "\ue0e5"), ("\\n", "\n"), ('\\"', '"'), ("\\/", "/"), ("\\t", "\t"), ("\\r", "\r"))
_PERCENT = re.compile(rf"%(?:u|{_HEX}{{2}})")
_ENTITY = re.compile("&[#A-Za-z]")

_NULS = re.compile(r"\0+")  # every other byte of UTF-16
_INDENT = re.compile(r"(?<=\n)[ \t]+")
_NUMBER = re.compile(rf"0[xX]{_HEX}{{1,2}}|[0-9]{{1,3}}")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_PRINTABLE = string.printable.encode() + b"\0"


class Form(NamedTuple):
    """A text as it reads in one way; `origin` gives the part of the whole that a part of it stands for."""

    text: str
    origin: Callable[[int, int], tuple[int, int]]


def forms(text: str, least: int) -> Iterator[Form]:
    """Yield the text and what it decodes to, for finding something of at least `least` characters in it."""
    return _readings(Form(text, _itself), least, _DEPTH, _Budget(_MOST_UNPACKED))


def decoded(text: str) -> list[str]:
    """Return what a text's escapes are undone to, each round's result, the text itself left out."""
    return [form.text for form in _unescapings(Form(text, _itself))]


def _itself(start: int, end: int) -> tuple[int, int]:
    return start, end


class _Budget:
    """How many characters more may be unpacked."""

    def __init__(self, chars: int) -> None:
        self._left = chars

    def allows(self, chars: int) -> bool:
        """Whether so many are left, which are then taken."""
        self._left -= chars
        return self._left >= 0


def _readings(form: Form, least: int, depth: int, budget: _Budget) -> Iterator[Form]:
    yield form
    read = [form]
    for unescaped in _unescapings(form):
        yield unescaped
        read.append(unescaped)
    for each in read:
        if "\0" in each.text and (narrow := _unescaped(each, _NULS)) is not None:
            yield from _readings(narrow, least, depth, budget)
    for each in read if depth else ():
        unfolded = _unescaped(each, _INDENT) if "\n " in each.text or "\n\t" in each.text else None
        for unpacked in _unpackings(each if unfolded is None else unfolded, least, budget):
            if _is_text(unpacked.text):
                yield from _readings(unpacked, least, depth - 1, budget)
                continue
            yield unpacked
            if "\0" in unpacked.text and (narrow := _unescaped(unpacked, _NULS)) is not None:
                yield narrow


def _is_text(text: str) -> bool:
    """Whether most characters are printable: others are read no further."""
    return len(text.encode("latin-1", "replace").translate(None, _PRINTABLE)) * 4 <= len(text)


# Escapes


def _unescapings(form: Form) -> Iterator[Form]:
    rounds = [form, *_rounds(form, _CODES)]
    yield from rounds[1:]
    if any("\\" in each.text for each in rounds):
        yield from _rounds(form, _NO_BACKSLASHES)
    if any(_QUOTED_PRINTABLE.search(each.text) for each in rounds):
        yield from _rounds(form, _ALL_CODES)
        yield from _rounds(form, _ALL_BUT_BACKSLASHES)


def _rounds(form: Form, codes: re.Pattern[str]) -> Iterator[Form]:
    for _ in range(_ROUNDS):
        unescaped = _unescaped(form, codes)
        if unescaped is None:
            return
        form = unescaped
        yield form


def _unescaped(form: Form, codes: re.Pattern[str]) -> Form | None:
    """Return the form with its escapes undone once; None when there are none."""
    text = None
    if codes is _CODES:
        text = _of_plain_json(form.text)
    elif codes is _NO_BACKSLASHES and not _has_url_or_html_codes(form.text):
        return None
    if text is None:
        text, count = codes.subn(_decode_found, form.text)
        if not count:
            return None
    elif text == form.text:
        return None
    pieces: list[tuple[list[int], list[int]]] = []  # made once they are asked for

    def origin(start: int, end: int) -> tuple[int, int]:
        if not pieces:
            pieces.append(_pieces(form.text, codes))
        there, here = pieces[0]
        first, last = bisect_right(there, start) - 1, bisect_right(there, end - 1) - 1
        # Even pieces are as they were, odd ones codes, which go as a whole.
        begin = here[first] + (0 if first % 2 else start - there[first])
        stop = here[last + 1] if last % 2 else here[last] + end - there[last]
        return form.origin(begin, stop)

    return Form(text, origin)


def _has_url_or_html_codes(text: str) -> bool:
    return _PERCENT.search(text) is not None or _ENTITY.search(text) is not None


def _of_plain_json(text: str) -> str | None:
    """Undo the escapes of a text that has none but the commonest ones of JSON, many times faster."""
    if "\ue0e5" in text or _has_url_or_html_codes(text):
        return None
    if "\\" in text:
        for code, char in _PLAIN_JSON:
            text = text.replace(code, char)
        if "\\" in text:
            return None
        text = text.replace("\ue0e5", "\\")
    return text


def _pieces(text: str, codes: re.Pattern[str]) -> tuple[list[int], list[int]]:
    """Where the pieces of a text begin once decoded, and where before: plain and coded ones by turns."""
    there, here = [0], [0]
    for found in codes.finditer(text):
        begins = there[-1] + found.start() - here[-1]
        there += (begins, begins + len(_decode(found[0])))
        here += (found.start(), found.end())
    return there, here


def _decode_found(found: re.Match[str]) -> str:
    return _decode(found[0])


@lru_cache(maxsize=4096)
def _decode(code: str) -> str:
    """Return what one code stands for."""
    if code[0] == "&":
        return html.unescape(code)
    if code[0] in "\0 \t":
        return ""
    rest = code[1:]
    if rest[-1] == "\n":
        return ""  # a line that goes on
    if code[0] in "%=" or (rest[0] in "uUx" and len(rest) > 1):
        number = int(rest.strip("uUx{}"), 16)
    elif rest[0].isdecimal() and rest.isascii():
        number = int(rest, 8) if rest < "8" else ord(rest)
    else:
        return _CONTROLS.get(rest, rest)
    return chr(number) if number <= 0x10FFFF else "\ufffd"


# Base64, hex and numbers: runs of characters, read from every place where a byte may begin


class _Packing:
    """A way to write bytes: characters of a set for bytes, and what may stand between them."""

    def __init__(
        self, chars: str, between: str, n_chars: int, n_bytes: int, decode: Callable[[bytes], bytes]
    ) -> None:
        self._table = bytes(ord("x" if chr(code) in chars else " ") for code in range(256))
        self._between = between
        self._n_chars, self._n_bytes, self._decode = n_chars, n_bytes, decode

    def unpack(self, form: Form, least: int, budget: _Budget) -> Iterator[Form]:
        """Yield what runs of at least `least` bytes decode to. Most texts hold none: that takes no time."""
        compact = form.text.encode("latin-1", "replace").translate(None, self._between.encode())
        mapped = compact.translate(self._table)
        run = b"x" * (least * self._n_chars // self._n_bytes)
        start = mapped.find(run)
        places: list[int] = []  # of the compact characters in the form
        while start >= 0:
            end = mapped.find(b" ", start)
            end = len(mapped) if end < 0 else end
            if budget.allows(end - start):
                for first in range(start, start + self._n_chars):
                    text = self._decode(compact[first:end]).decode("latin-1")
                    yield Form(text, partial(self._origin, form, places, first))
            start = mapped.find(run, end)

    def _origin(self, form: Form, places: list[int], first: int, start: int, end: int) -> tuple[int, int]:
        if not places:
            places += [place for place, char in enumerate(form.text) if char not in self._between]
        begin = places[first + start * self._n_chars // self._n_bytes]
        last = places[first + (end * self._n_chars - 1) // self._n_bytes]
        return form.origin(begin, last + 1)


def _from_base64(chars: bytes) -> bytes:
    chars = chars[: len(chars) - (len(chars) % 4 == 1)].translate(_STANDARD)
    return binascii.a2b_base64(chars + b"=" * (-len(chars) % 4))


def _from_hex(chars: bytes) -> bytes:
    return binascii.unhexlify(chars[: len(chars) // 2 * 2])


_PACKINGS = (
    _Packing(string.ascii_letters + string.digits + "+/-_", "\r\n", 4, 3, _from_base64),
    _Packing(string.hexdigits, " \t\r\n:,-", 2, 1, _from_hex),
)


@lru_cache(maxsize=64)
def _lists_of_numbers(least: int) -> re.Pattern[str]:
    number = f"(?:{_NUMBER.pattern})"
    return re.compile(rf"{number}(?:[,;]\s{{0,40}}+{number}){{{least - 1},}}+")


_DIGITS = bytes(ord("x" if chr(code) in string.hexdigits + "xX" else " ") for code in range(256))


def _may_list_numbers(text: str, least: int) -> bool:
    """Whether a look that takes no time finds so many digits with nothing but separators between them."""
    return b"x" * least in text.encode("latin-1", "replace").translate(_DIGITS, b",; \t\r\n\v\f")


def _unpackings(form: Form, least: int, budget: _Budget) -> Iterator[Form]:
    for packing in _PACKINGS:
        yield from packing.unpack(form, least, budget)
    if not _may_list_numbers(form.text, least):
        return
    for found in _lists_of_numbers(least).finditer(form.text):
        if budget.allows(len(found[0])):
            yield _from_numbers(form, found)


def _from_numbers(form: Form, found: re.Match[str]) -> Form:
    numbers = list(_NUMBER.finditer(found[0]))
    text = "".join(chr(int(number[0], 0 if number[0][1:2] in ("x", "X") else 10)) for number in numbers)

    def origin(start: int, end: int) -> tuple[int, int]:
        return form.origin(found.start() + numbers[start].start(), found.start() + numbers[end - 1].end())

    return Form(text, origin)
