"""Encodings of text files and pages: WHATWG's labels, byte order marks, and what is told of broken text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import KnowledgeConfig
from dlgforge_core.config.base import validate
from dlgforge_core.errors import ConfigError
from dlgforge_core.knowledge.encodings import EncodingError, codec_of, decode, decode_page

TYPOGRAPHIC = "“Prices” – 5 € … it’s"


@pytest.mark.parametrize(
    "label", ["iso-8859-1", "ISO-8859-1", "latin1", "l1", "ascii", "us-ascii", "windows-1252", "cp1252"]
)
def test_pages_that_say_latin_1_are_windows_1252(label: str) -> None:
    page = f'<html><head><meta charset="{label}"></head><p>{TYPOGRAPHIC}</p>'.encode("cp1252")
    assert TYPOGRAPHIC in decode_page(page).text


@pytest.mark.parametrize(
    ("label", "codec", "text"),
    [
        ("iso-8859-9", "cp1254", "“İstanbul” – 5 €"),
        ("tis-620", "cp874", "“ภาษาไทย” 5 €"),
        ("gb2312", "gb18030", "镕基 简体 €"),
        ("shift_jis", "cp932", "①②㈱ 日本語"),
        ("x-sjis", "cp932", "髙﨑"),
        ("ks_c_5601-1987", "cp949", "똠방각하"),
        ("big5", "big5hkscs", "繁體中文 啫"),
        ("koi8-r", "koi8-r", "Привет"),
        ("windows-1251", "cp1251", "Привет, “мир”"),
        ("euc-jp", "euc_jis_2004", "日本語 ①"),
        ("iso-2022-jp", "iso-2022-jp", "日本語"),
        ("iso-8859-8-i", "iso-8859-8", "שלום"),
        ("x-mac-cyrillic", "mac-cyrillic", "Привет"),
    ],
)
def test_labels_are_those_of_the_web(label: str, codec: str, text: str) -> None:
    page = b"<meta charset=" + label.encode() + b"><p>" + text.encode(codec)
    assert decode_page(page).text.endswith(f"<p>{text}")
    assert not decode_page(page).problem


@pytest.mark.parametrize(
    "head",
    [
        b'<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1">',
        b"<META CHARSET = 'latin1' >",
        b'<?xml version="1.0" encoding="ISO-8859-1"?><html>',
        b"<!-- <meta charset=koi8-r> --><meta name=x content=y><meta charset=latin1>",
        b"<!doctype html>" + b" " * 3_000 + b"<meta charset=latin1>",
    ],
)
def test_pages_say_their_encoding_in_many_ways(head: bytes) -> None:
    assert decode_page(head + b"<p>\x93\xe9\x94").text.endswith("“é”")


def test_byte_order_marks_count_most() -> None:
    for codec in ("utf-8-sig", "utf-16", "utf-32"):
        assert decode_page("<meta charset=koi8-r>é€".encode(codec)).text == "<meta charset=koi8-r>é€"
        assert decode("é€".encode(codec)).text == "é€"
    assert decode_page("<p>é€".encode("utf-16-le")).text == "<p>é€"
    assert decode_page("<p>é€".encode("utf-16-be")).text == "<p>é€"


def test_utf_8_that_says_latin_1_is_utf_8() -> None:
    assert decode_page("<meta charset=iso-8859-1>déjà “vu”".encode()).text.endswith("déjà “vu”")
    assert decode_page("<meta charset=utf-16>déjà vu".encode()).text.endswith("déjà vu")


def test_what_states_no_encoding_is_reported_and_can_be_named() -> None:
    for data in ("déjà “vu”".encode("cp1252"), b"<meta charset=nonsense>\xe9"):
        with pytest.raises(EncodingError, match=r"knowledge\.encoding"):
            decode_page(data)
    assert decode("déjà “vu”".encode("cp1252"), fallback="latin1").text == "déjà “vu”"
    assert decode("déjà vu".encode(), fallback="latin1").text == "déjà vu"
    assert validate(KnowledgeConfig, {"encoding": "Latin1"}, "x").encoding == "Latin1"
    with pytest.raises(ConfigError, match="windows-1252 is one"):
        validate(KnowledgeConfig, {"encoding": "nonsense"}, "x")


def test_a_few_broken_characters_are_reported_and_many_refused() -> None:
    decoded = decode_page(b"<meta charset=utf-8>" + "déjà vu ".encode() * 30 + b"\xff end")
    assert decoded.text.endswith("\ufffd end")
    assert decoded.problem == "1 characters are not utf-8 (the first at byte 320)"
    with pytest.raises(EncodingError, match="not utf-8"):
        decode_page(b"<meta charset=utf-8>" + b"d\xe9j\xe0 vu " * 30)


@given(st.binary(max_size=300), st.sampled_from(["", "latin1", "utf-8", "gbk", "iso-2022-jp", "euc-jp", "x"]))
@settings(max_examples=100)
def test_any_bytes_are_text_or_refused(data: bytes, label: str) -> None:
    try:
        text = decode_page(b"<meta charset=" + label.encode() + b">" + data).text
    except EncodingError:
        return
    assert isinstance(text, str)


def test_labels_that_stand_for_no_text_are_none() -> None:
    assert [codec_of(label) for label in ("iso-2022-kr", "hz-gb-2312", "x-user-defined", "", "?")] == [
        None
    ] * 5
