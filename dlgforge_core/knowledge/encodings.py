"""Encodings of text files and web pages: what their bytes are as text, by WHATWG's Encoding Standard.

A byte order mark counts most, then what a page says of itself, then UTF-8 where the bytes are valid UTF-8,
then the encoding in the configuration. Nothing is guessed from the letters: a wrong guess spoils a text, and
nobody is told.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

import webencodings  # type: ignore[import-untyped]

# Python's codecs that decode as the standard does, where they have other names.
_CODECS = {
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "euc-kr": "cp949",
    "windows-874": "cp874",
    "macintosh": "mac-roman",
    "x-mac-cyrillic": "mac-cyrillic",
    "iso-8859-8-i": "iso-8859-8",
}
_MARKS = (  # the longer ones first: that of UTF-32 begins as that of UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Browsers look at the first 1,024 bytes; long scripts before the tag are met in practice.
_HEAD_BYTES = 8_192
_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_META = re.compile(rb"<meta[\s/]([^>]*)", re.IGNORECASE)
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([^\s\"'/>;]+)", re.IGNORECASE)
_XML = re.compile(rb"\A\s*<\?xml[^>]{0,200}?\sencoding\s*=\s*[\"']([^\"'>]{1,60})[\"']")
# A text with more broken characters than this share is in another encoding than it says.
_BROKEN_SHARE = 0.05


class EncodingError(ValueError):
    """The encoding of a text is unknown; the message says what would be right."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded text. `problem` tells of bytes that could not be decoded; they are U+FFFD in the text."""

    text: str
    problem: str = ""


def codec_of(label: str) -> str | None:
    """Python's codec for one of WHATWG's labels; None when it is none of them."""
    found = webencodings.lookup(label)
    name: str = found.name if found is not None else ""
    return None if name in ("", "x-user-defined", "replacement") else _CODECS.get(name, name)


def decode(data: bytes, *, declared: str = "", fallback: str = "") -> Decoded:
    """Return the text in `data`.

    `declared` is the label that the text gives itself, `fallback` the one from the configuration, for a text
    that states none and is not UTF-8. Raises EncodingError.
    """
    for mark, codec in _MARKS:
        if data.startswith(mark):
            return _decoded(data, codec, codec.removesuffix("-sig").upper())
    codec = codec_of(declared) or ""
    if codec.startswith("utf-16"):  # it could not have been read in an encoding whose letters have two bytes
        codec = "utf-8"
    if codec in ("", "utf-8", "windows-1252"):
        # Pages that say iso-8859-1 and are UTF-8 are frequent; the reverse does not happen by accident.
        try:
            return Decoded(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            if not codec and not fallback:
                note = f"; it says {declared[:40]!r}, which is no encoding" if declared else ""
                raise EncodingError(
                    f"not UTF-8 (byte {error.start:,}){note}; save it as UTF-8, or name the encoding of such "
                    "files in knowledge.encoding"
                ) from None
    return _decoded(data, codec or codec_of(fallback) or "utf-8", declared if codec else fallback)


def declared_encoding(data: bytes) -> str:
    """Return the label that a page gives itself, in an XML declaration or a `meta` tag; empty without."""
    if found := _XML.search(data[:_HEAD_BYTES]):
        return found[1].decode("latin-1")
    for tag in _META.finditer(_COMMENT.sub(b"", data[:_HEAD_BYTES])):
        if named := _CHARSET.search(tag[1]):
            return named[1].decode("latin-1")
    if data[:2] == b"<\0":
        return "utf-16le"
    return "utf-16be" if data[:2] == b"\0<" else ""


def decode_page(data: bytes, fallback: str = "") -> Decoded:
    """Return the text of an HTML page, in the encoding that it says it has. Raises EncodingError."""
    declared = declared_encoding(data)
    if declared in ("utf-16le", "utf-16be") and b"\0" in data[:2]:
        return _decoded(data, declared.replace("16", "16-"), declared)
    return decode(data, declared=declared, fallback=fallback)


def _decoded(data: bytes, codec: str, name: str) -> Decoded:
    if codec == "windows-1252":
        return Decoded(data.decode("cp1252", "c1-controls"))
    try:
        return Decoded(data.decode(codec))
    except UnicodeDecodeError as error:
        at = error.start
    if codec == "euc-jp":  # the rows that vendors added, ① and the like
        try:
            return Decoded(data.decode("euc_jis_2004"))
        except UnicodeDecodeError:
            pass
    text = data.decode(codec, "replace")
    n_broken, n_foreign = text.count("\ufffd"), sum(char > "\x7f" for char in text)
    if n_broken > max(1, _BROKEN_SHARE * n_foreign) or codec.startswith(("utf-16", "utf-32")):
        raise EncodingError(f"not {name} (byte {at:,}); save it as UTF-8")
    return Decoded(text, f"{n_broken:,} characters are not {name} (the first at byte {at:,})")


def _c1_control(error: UnicodeError) -> tuple[str, int]:
    """Windows-1252 leaves five bytes undefined; the standard makes control characters of them."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return chr(error.object[error.start]), error.start + 1


codecs.register_error("c1-controls", _c1_control)
