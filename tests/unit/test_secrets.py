"""Secrets in what is told: found in every spelling, and words that are none left where they stand."""

from __future__ import annotations

import base64
import html
import json
import time
from urllib.parse import quote, quote_plus

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.common.secrets import (
    _pattern,
    address_secrets,
    can_be_secret,
    holds_secret,
    redact,
    redact_body,
    secret_variables,
    shown_address,
)
from dlgforge_core.errors import KnowledgeError, SeedError
from dlgforge_core.export.scrub import Scrubber, secrets_of
from dlgforge_core.knowledge.folder import KnowledgeFolder
from dlgforge_core.planning.seed_folder import read_seed_batches

KEY = "sk-a/B+c=d\"e'f&0123456789_xyz"


def escaped(text: str) -> str:
    """Every character as JSON may write it."""
    return "".join(f"\\u{ord(char):04x}" for char in text)


def spellings(key: str) -> dict[str, str]:
    return {
        "plain": key,
        "json": json.dumps(key),
        "json with slashes": json.dumps(key).replace("/", "\\/"),
        "json twice": json.dumps(json.dumps(key)),
        "json thrice": json.dumps(json.dumps(json.dumps(key))),
        "code points": escaped(key),
        "code points twice": json.dumps(escaped(key)),
        "capital code points": "".join(f"\\u{ord(char):04X}" for char in key),
        "percent": quote(key, safe=""),
        "percent lower": quote(key, safe="").lower()
        if quote(key, safe="").lower() == key
        else quote_plus(key),
        "all percent": "".join(f"%{byte:02x}" for byte in key.encode()),
        "percent twice": quote(quote(key, safe=""), safe=""),
        "html": html.escape(key),
        "html numbers": "".join(f"&#{ord(char)};" for char in key),
        "html hex": "".join(f"&#x{ord(char):X};" for char in key),
        "repr": repr(key),
        "bytes' repr": "".join(f"\\x{byte:02x}" for byte in key.encode()),
        "hex": key.encode().hex(),
        "mixed": key[:5] + escaped(key[5:9]) + quote(key[9:], safe=""),
    }


@pytest.mark.parametrize("how", list(spellings(KEY)))
def test_a_key_is_found_in_every_spelling(how: str) -> None:
    spelt = spellings(KEY)[how]
    content = f"Incorrect key: {spelt}, sorry"
    for text in (redact(content, KEY), redact(content.encode(), [KEY]).decode()):
        assert text.replace('"', "").replace("\\", "").replace("'", "") == "Incorrect key: ***, sorry"
    assert holds_secret(content, [KEY])
    assert not holds_secret("Incorrect key: sk-other-0123456789, sorry", [KEY])


@pytest.mark.parametrize("before", ["", "u", "us", "user:", "Bearer "])
@pytest.mark.parametrize("url_safe", [False, True])
def test_a_key_is_found_in_base64_whatever_stands_before_it(before: str, url_safe: bool) -> None:
    encode = base64.urlsafe_b64encode if url_safe else base64.b64encode
    for key in ("sk-0123456789abcdef", "\u00ff\u00fe??>>012345678"):
        content = "Basic " + encode(f"{before}{key}@after".encode()).decode()
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
    assert time.process_time() - started < 2


keys = st.text(st.characters(codec="ascii", exclude_categories=["Cc", "Zs"]), min_size=8, max_size=40)


@given(keys.filter(can_be_secret), st.text(max_size=20), st.text(max_size=20))
@settings(max_examples=100, deadline=None)
def test_any_key_is_found_in_any_text(key: str, before: str, after: str) -> None:
    for spelt in spellings(key).values():
        assert holds_secret(f"{before}{spelt}{after}", [key]), spelt


@given(
    keys.filter(can_be_secret),
    st.lists(st.sampled_from(["%41", "&#65;", "&AMP;", "\\", "+", "%", "& ", "Q&A"])),
)
@settings(max_examples=25, deadline=None)
def test_texts_without_codes_are_read_like_all_others(key: str, parts: list[str]) -> None:
    for spelt in spellings(key).values():
        text = spelt.join(["", *parts, ""])
        assert redact(text, key) == _pattern(key.strip(), False, coded=True).sub("***", text)


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
    assert time.process_time() - began < 2
