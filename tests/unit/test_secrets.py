"""Secrets in what is told: found in every spelling, and words that are none left where they stand."""

from __future__ import annotations

import base64
import html
import io
import json
import time
from collections.abc import Callable
from urllib.parse import quote, urlencode

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.common.secrets import (
    address_secrets,
    can_be_secret,
    holds_secret,
    redact,
    redact_body,
    secret_variables,
    shown_address,
)
from dlgforge_core.common.spellings import decoded
from dlgforge_core.errors import KnowledgeError, SeedError
from dlgforge_core.export.scrub import Scrubber, secrets_of
from dlgforge_core.knowledge.folder import KnowledgeFolder
from dlgforge_core.planning.seed_folder import read_seed_batches
from dlgforge_core.runtime.serving.processes import lines_without

KEY = "sk-a/B+c=d\"e'f&0123456789_xyz"


def escaped(text: str) -> str:
    """Every character as JSON may write it."""
    return "".join(f"\\u{ord(char):04x}" for char in text)


def quoted_printable(text: str) -> str:
    """Every character but letters and digits coded, on lines of three."""
    coded = [char if char.isalnum() else f"={ord(char):02X}" for char in text]
    return "=\n".join("".join(coded[n : n + 3]) for n in range(0, len(coded), 3))


def encoded(text: str, before: str = "", *, url_safe: bool = False) -> str:
    encode = base64.urlsafe_b64encode if url_safe else base64.b64encode
    return encode(f"{before}{text}@after".encode()).decode()


def lines(text: str, width: int, line_break: str = "\n") -> str:
    return line_break.join(text[n : n + width] for n in range(0, len(text), width))


Encoder = Callable[[str], str]


def of_each(code: Callable[[int], str]) -> Encoder:
    return lambda text: "".join(code(ord(char)) for char in text)


ENCODERS: dict[str, Encoder] = {
    "json": json.dumps,
    "json with slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "code points": escaped,
    "capital code points": of_each(lambda code: f"\\u{code:04X}"),
    "braced code points": of_each(lambda code: f"\\u{{{code:x}}}"),
    "long code points": of_each(lambda code: f"\\U{code:08x}"),
    "octal": of_each(lambda code: f"\\{code:03o}"),
    "percent": lambda text: quote(text, safe=""),
    "query": lambda text: urlencode({"a": "b c", "key": text, "z": 1}, quote_via=quote),
    "all percent": of_each(lambda code: f"%{code:02x}"),
    "html": html.escape,
    "html numbers": of_each(lambda code: f"&#{code};"),
    "html numbers with zeros": of_each(lambda code: f"&#{code:09};"),
    "html hex": of_each(lambda code: f"&#x{code:X};"),
    "html hex with zeros": of_each(lambda code: f"&#x0000{code:x};"),
    "repr": repr,
    "repr of bytes": lambda text: repr(text.encode()),
    "bytes as hex escapes": of_each(lambda code: f"\\x{code:02x}"),
    "quoted-printable": quoted_printable,
    "all quoted-printable": of_each(lambda code: f"={code:02X}"),
    "hex": lambda text: text.encode().hex(),
    "hex dump": lambda text: text.encode().hex(" "),
    "numbers": lambda text: str(list(text.encode())),
    "hex numbers": of_each(lambda code: f"0x{code:02x}, "),
    "base64": encoded,
    "base64 after one": lambda text: encoded(text, "x"),
    "base64 after two": lambda text: encoded(text, "u:"),
    "base64 of user and key": lambda text: encoded(text, "user:"),
    "base64url": lambda text: encoded(text, "\u00ff?", url_safe=True).rstrip("="),
    "base64 on lines": lambda text: lines(encoded(text, "ab"), 20),
    "base64 on folded lines": lambda text: lines(encoded(text), 7, "\r\n  "),
    "base64 of utf-16": lambda text: base64.b64encode(text.encode("utf-16")).decode(),
}


def spellings(key: str) -> dict[str, str]:
    return {
        "plain": key,
        **{name: encoder(key) for name, encoder in ENCODERS.items()},
        "json thrice": json.dumps(json.dumps(json.dumps(key))),
        "code points twice": json.dumps(escaped(key)),
        "form": urlencode({"a": "b c", "key": key}),
        "percent thrice": quote(quote(quote(key, safe=""), safe=""), safe=""),
        "mixed": key[:5] + escaped(key[5:9]) + quote(key[9:], safe=""),
        "each character otherwise": "".join(
            list(ENCODERS.values())[2 + n % 4](char) if n % 2 else f"%{ord(char):02x}"
            for n, char in enumerate(key)
        ),
    }


@pytest.mark.parametrize("how", list(spellings(KEY)))
def test_a_key_is_found_in_every_spelling(how: str) -> None:
    spelt = spellings(KEY)[how]
    content = f"Incorrect key: {spelt}, sorry"
    assert holds_secret(content, [KEY])
    for text in (redact(content, KEY), redact(content.encode(), [KEY]).decode()):
        assert not holds_secret(text, [KEY])
        assert text.startswith("Incorrect key: ")
        assert text.endswith(", sorry")
        if "base64" not in how and how not in ("query", "form"):
            assert text.replace("b'", "").strip("\"'").replace('"', "").replace("\\", "").replace(
                "'", ""
            ) in (
                "Incorrect key: ***, sorry",
                "Incorrect key: [***], sorry",
                "Incorrect key: ***, , sorry",
            )
    assert not holds_secret("Incorrect key: sk-other-0123456789, sorry", [KEY])


def test_what_stands_around_a_key_stays() -> None:
    query = "https://h/v1?a=b+c&key=" + quote(KEY, safe="") + "&z=1"
    assert redact(query, KEY) == "https://h/v1?a=b+c&key=***&z=1"
    encoded_text = "aa\\n" + escaped(KEY) + " &amp; bb %41 " + quoted_printable(KEY) + "=41 cc"
    assert redact(encoded_text, KEY) == "aa\\n*** &amp; bb %41 ***=41 cc"
    twice = encoded(KEY, "user:")
    assert redact(f"{twice} {twice}", KEY) == redact(twice, KEY) + " " + redact(twice, KEY)
    assert redact(twice, KEY).startswith("dXNlcj")
    assert redact("\u4f60\u597d " + escaped(KEY) + " \u4f60", KEY) == "\u4f60\u597d *** \u4f60"


@pytest.mark.parametrize("before", ["", "u", "us", "user:", "Bearer "])
@pytest.mark.parametrize("url_safe", [False, True])
def test_a_key_is_found_in_base64_whatever_stands_before_it(before: str, url_safe: bool) -> None:
    for key in ("sk-0123456789abcdef", "\u00ff\u00fe??>>012345678"):
        content = "Basic " + encoded(key, before, url_safe=url_safe)
        text = redact(content, key)
        assert "***" in text
        assert len(text) < len(content) - 10


def test_a_key_is_found_once_an_answer_is_decoded() -> None:
    body = json.dumps({"error": {"message": f"key {KEY}", KEY: [escaped(KEY)]}}).encode()
    decoded = orjson.loads(redact_body(body, [KEY]))
    assert decoded == {"error": {"message": "key ***", "***": ["***"]}}
    assert redact_body(b"<h1>" + html.escape(KEY).encode(), [KEY]) == b"<h1>***"


DUMMIES = [
    "",
    "0",
    "EMPTY",
    "none",
    "depends",
    "dummy",
    "not-needed",
    "sk-no-key-required",
    "test",
    "changeme",
]


@pytest.mark.parametrize("dummy", DUMMIES)
def test_a_word_that_is_no_secret_is_struck_from_nothing(dummy: str) -> None:
    content = f"It depends: 10 {dummy} of none is EMPTY."
    assert not can_be_secret(dummy)
    assert redact(content, dummy) == content
    assert redact_body(content.encode(), [dummy]) == content.encode()
    assert not holds_secret(content, [dummy])
    assert Scrubber(secrets_of({"OPENAI_API_KEY": dummy})).text(content) == content


@pytest.mark.parametrize(
    "key",
    ["sk-12345678", "abc12345", "hf_abcdefghijklmnopqrst", "0123456789", "kJhGfDsAqWeRtYuIoP", "p4ss-word"],
)
def test_keys_can_be_secrets(key: str) -> None:
    assert can_be_secret(key)


@pytest.mark.parametrize(
    "text", ["\\" * 300_000, "%25" * 100_000, "&#0" * 100_000, "sk-" * 100_000, "s" * 300_000]
)
def test_looking_for_a_key_takes_time_in_proportion(text: str) -> None:
    started = time.process_time()
    redact(text, KEY)
    assert time.process_time() - started < 6


keys = st.text(st.characters(codec="ascii", exclude_categories=["Cc", "Zs"]), min_size=8, max_size=40)


@given(keys.filter(can_be_secret), st.text(max_size=20), st.text(max_size=20))
@settings(max_examples=50, deadline=None)
def test_any_key_is_found_in_any_text(key: str, before: str, after: str) -> None:
    for how, spelt in spellings(key).items():
        if how == "mixed" and "\\" in before + key:  # before a code it would make another code
            continue
        if how == "mixed" and not all(map(can_be_secret, decoded(key))):  # too short to be looked for
            continue
        assert holds_secret(f"{before}{spelt}{after}", [key]), how


@given(
    keys.filter(lambda key: can_be_secret(key) and "\\" not in key),
    st.lists(st.sampled_from(sorted(ENCODERS)), min_size=1, max_size=2),
    st.sampled_from(["", "He said: ", "{'a': ", "<p>x</p>\n", "50% of a=b & "]),
)
@settings(max_examples=60, deadline=None)
def test_any_key_is_found_after_any_two_encoders(key: str, names: list[str], before: str) -> None:
    spelt = before + key
    for name in names:
        spelt = ENCODERS[name](spelt)
    content = f"It is {spelt}!"
    assert holds_secret(content, [key])
    assert not holds_secret(redact(content, key), [key])


@given(
    st.text(max_size=300), st.lists(st.sampled_from(["%41", "&#65;", "&AMP;", "\\", "=3D", "c2st", "\\n"]))
)
@settings(max_examples=100, deadline=None)
def test_a_text_without_a_key_stays_as_it_is(text: str, codes: list[str]) -> None:
    content = text.join(["", *codes, ""])
    assert redact(content, [KEY, "hf_abcdefghijklmnopqrst", "depends", "0"]) == content


def test_a_key_in_a_long_line_is_not_reported_where_it_is_cut() -> None:
    for before in (0, 5_000, 8_150, 8_170, 8_185, 16_350):
        stream = io.StringIO("a" * before + KEY + "b" * 9_000 + "\n" + f"next {KEY}\n" + KEY[:4])
        lines = list(lines_without([KEY], stream))
        assert "".join(lines) == "a" * before + "***" + "b" * 9_000 + "next ***" + KEY[:4]


# Addresses


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:hunter2@host/a?x=1", "https://user:***@host/a?x=1"),
        ("sftp://me:p%40ss@host:22/docs", "sftp://me:***@host:22/docs"),
        ("https://ghp_0123456789abcdef0123@github.com/a", "https://***@github.com/a"),
        ("ssh://git@host/a", "ssh://git@host/a"),
        (
            "https://b.s3.amazonaws.com/a.txt?X-Amz-Credential=AK%2F1&X-Amz-Signature=abc&X-Amz-Expires=60",
            "https://b.s3.amazonaws.com/a.txt?X-Amz-Credential=***&X-Amz-Signature=***&X-Amz-Expires=***",
        ),
        (
            "https://x.blob.core.windows.net/c?sv=2024-01-01&se=2026&sr=c&sp=rl&sig=a%2Bb%3D",
            "https://x.blob.core.windows.net/c?sv=2024-01-01&se=2026&sr=c&sp=rl&sig=***",
        ),
        ("zip://a.zip::https://u:p@h/a.zip?token=t", "zip://a.zip::https://u:***@h/a.zip?token=***"),
        ("s3://bucket/folder", "s3://bucket/folder"),
        ("/local/folder?token=x", "/local/folder?token=***"),
        ("no https://u:p@h/ here", "no https://u:***@h/ here"),
    ],
)
def test_addresses_are_shown_without_what_opens_them(address: str, shown: str) -> None:
    assert shown_address(address) == shown


def test_secrets_of_an_address_are_taken_out_of_other_texts() -> None:
    address = "https://me:s3cret%2Fpass1@host/a?sig=abc%2Bdef0123"
    assert address_secrets(address) == ["s3cret/pass1", "abc+def0123"]
    assert redact("401 for me with s3cret/pass1", address_secrets(address)) == "401 for me with ***"


@pytest.mark.parametrize(
    "address", ["https://me:s3cretpass1@127.0.0.1:9/a/?sig=abcdef0123", "nosuch://me:s3cretpass1@h/a"]
)
def test_no_message_of_a_folder_holds_its_password(address: str) -> None:
    with pytest.raises(KnowledgeError) as documents:
        KnowledgeFolder(address).files()
    with pytest.raises(SeedError) as seeds:
        read_seed_batches(address)
    for message in (str(documents.value), str(seeds.value)):
        assert "://me:***@" in message
        assert "s3cretpass1" not in message
        assert "abcdef0123" not in message


# Exports


def test_keys_in_variables_of_any_name_are_known_where_the_configuration_names_them() -> None:
    config = {
        "llm": {
            "api_key_env": "MY_LLM",
            "headers_env": {"X-Key": "MY_HEADER"},
            "routing": {"endpoints": [{"api_key_env": "E0"}]},
        },
        "knowledge": {"embedding": {"api_key_env": ""}},
    }
    assert secret_variables(config) == {"MY_LLM", "MY_HEADER", "E0"}
    environment = {"MY_LLM": "abcd-12345678", "E0": "none", "OTHER": "efgh-12345678"}
    assert secrets_of(environment, secret_variables(config)) == {"abcd-12345678"}


def test_a_long_run_of_backslashes_takes_no_time() -> None:
    secret = "k3y" + "\\" * 40 + "Zq9"
    began = time.process_time()
    assert secret not in redact("x" + "\\" * 100_000 + "y", [secret])
    assert redact(f"a {secret} b", [secret]) == "a *** b"
    assert redact("a " + secret.replace("\\", "\\\\") + " b", [secret]) == "a *** b"
    assert redact("a " + secret.replace("\\", "%5C") + " b", [secret]) == "a *** b"
    assert time.process_time() - began < 6
