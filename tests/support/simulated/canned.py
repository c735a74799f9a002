"""Replies written out beforehand, for the requests that they are for: how a server's quirks are played."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

KEYS = frozenset({"contains", "without", "sends", "times", "every", "status", "headers", "body"})


class CannedReplyError(Exception):
    """This request is answered with a reply from the list."""

    def __init__(self, status: int, headers: bytes, body: bytes) -> None:
        super().__init__(f"status {status}")
        self.status, self.headers, self.body = status, headers, body


class CannedReplies:
    """The list of the option `canned`, with how often each was given."""

    def __init__(self, replies: Sequence[Mapping[str, Any]]) -> None:
        self._replies = replies
        self._asked = [0] * len(replies)
        self._given = [0] * len(replies)

    def check(self, request: Mapping[str, Any], raw: bytes) -> None:
        """Raise CannedReplyError when a reply is for this request."""
        for index, reply in enumerate(self._replies):
            if not _is_for(reply, request, raw):
                continue
            self._asked[index] += 1
            if self._asked[index] % reply.get("every", 1) or self._given[index] >= reply.get("times", 2**31):
                continue
            self._given[index] += 1
            body = reply.get("body", "")
            headers = "".join(f"{name}: {value}\r\n" for name, value in reply.get("headers", {}).items())
            raise CannedReplyError(
                reply.get("status", 200),
                headers.encode("latin-1"),
                body.encode() if isinstance(body, str) else orjson.dumps(body),
            )


def _is_for(reply: Mapping[str, Any], request: Mapping[str, Any], raw: bytes) -> bool:
    contains, without, sends = reply.get("contains", ""), reply.get("without", ""), reply.get("sends", "")
    return (
        (not contains or contains.encode() in raw)
        and (not without or without.encode() not in raw)
        and (not sends or bool(re.search(rf'"{sends}"\s*:', raw.decode())))
    )


def check_replies(replies: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError for a reply with a key that is not known."""
    for reply in replies:
        if unknown := sorted(set(reply) - KEYS):
            raise ValueError(f"canned: unknown keys {', '.join(unknown)}; known: {', '.join(sorted(KEYS))}")
