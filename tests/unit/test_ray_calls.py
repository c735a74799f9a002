"""What calls to Ray say when they fail, and what is kept quiet."""

from __future__ import annotations

import logging

import pytest
import ray

from dlgforge_core.runtime.cluster.calls import ask_all, first_line, kill_quietly, quietly


class Wrapped(Exception):
    """As Ray wraps what was raised inside an actor."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("a long trace")
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Wrapped(KeyError("the key\nand more")), "'the key\\nand more'"),
        (ValueError("\n first \n second"), "first"),
        (Wrapped(TimeoutError()), "Wrapped"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_the_first_line_is_of_what_was_raised_inside(error: Exception, message: str) -> None:
    assert first_line(error).strip() == message


def test_only_what_ray_does_not_say_itself_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        with quietly("ending it"):
            raise ray.exceptions.ActorDiedError
        with quietly("ending it"):
            raise ValueError("ray.kill() only supported for actors")
        kill_quietly(None)
        assert caplog.text == ""
        assert not ray.is_initialized()
        with quietly("ending it"):
            raise RuntimeError("a mistake of our own")
    assert "ending it failed" in caplog.text
    assert "a mistake of our own" in caplog.text


def test_nobody_is_asked_where_there_is_nobody() -> None:
    assert ask_all([], "status") == []
