"""What servers, files and models say is fit for a terminal before anybody prints it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.errors import BackendError, DlgforgeError, StoreError
from dlgforge_core.llm.server_errors import excerpt
from dlgforge_core.printable import printable

ATTACKS = [
    "\x1b]0;a title\x07",  # sets the terminal's title
    "\x1b[2J\x1b[H",  # clears the screen
    "\x9b31m",  # the same, in one character
    "all is well\r\nno, it is not\x08\x08",
    "\x1b]52;c;cm0gLXJm\x07",  # fills the clipboard
    "a\u202eb",  # turns the direction of what follows
    "\x00\x7f",
]
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("text", ATTACKS)
def test_control_characters_are_written_out(text: str) -> None:
    for shown in (printable(text), str(BackendError(text)), str(StoreError(text)), excerpt(text.encode())):
        assert not CONTROL.search(shown)
    assert printable("\x1b[2J") == "\\x1b[2J"
    assert printable("a\u202eb") == "a\\u202eb"


def test_text_stays_as_it_is() -> None:
    text = "one\n\ttwo: مرحبا, 你好, café – “fine” 🙂\u200d"
    assert printable(text) == text
    assert str(DlgforgeError(text)) == text


@settings(max_examples=60)
@given(st.text())
def test_whatever_is_written_nothing_reaches_the_terminal_that_steers_it(text: str) -> None:
    assert not CONTROL.search(str(BackendError(text)))
    assert not CONTROL.search(excerpt(text))
