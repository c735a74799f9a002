"""What a chat completion asks for: which role is to speak, and whether JSON is wanted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.support.simulated.content import schema_in_text, text_of
from tests.support.simulated.errors import RequestError
from tests.support.simulated.options import ROLES, Options

USER_SIMULATOR, ASSISTANT, JUDGE, _ = ROLES
_SUPPORTED = {"json_schema": ("json_schema", "json_object"), "json_object": ("json_object",), "none": ()}
_MAX_REMEMBERED = 8192


class Request(NamedTuple):
    """`kind`: text, json_schema, json_object, or json_text (asked for in words); text has no schema."""

    role: str
    kind: str
    schema: Mapping[str, Any] | None


class Classifier:
    """Tells requests apart. First messages repeat from call to call, so what they say is remembered."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._user_pattern = re.compile(options.user_simulator_pattern, re.IGNORECASE)
        self._json_pattern = re.compile(options.json_request_pattern, re.IGNORECASE)
        self._first_messages: dict[int, tuple[bool, bool]] = {}

    def classify(self, model: str, messages: list[Any], response_format: Any) -> Request:
        """Raise RequestError (400) for a response_format this endpoint does not support."""
        first, last = messages[0], messages[-1]
        plays_user, asks_json = self._first_message(text_of(first))
        kind = response_format.get("type", "text") if isinstance(response_format, dict) else "text"
        schema: Mapping[str, Any] | None = None
        if kind != "text":
            self._check_response_format(kind)
            if kind == "json_schema":
                schema = (response_format.get("json_schema") or {}).get("schema")
        elif not plays_user and (
            asks_json or (last is not first and last["role"] == "user" and self._asks_json(text_of(last)))
        ):  # whoever plays a user may well talk about JSON
            kind = "json_text"
        if kind != "text" and not schema:
            schema = (
                schema_in_text(text_of(first))
                or schema_in_text(text_of(last))
                or self._options.default_schema
            )
        role = self._options.role_models.get(model)
        if role is None:
            asks = schema is None or "question" in schema.get("properties", {})
            role = JUDGE if not asks else USER_SIMULATOR if plays_user else ASSISTANT
        return Request(role, kind, schema)

    def _check_response_format(self, kind: str) -> None:
        if kind not in _SUPPORTED[self._options.json_schema_support]:
            raise RequestError(
                400,
                f"Invalid parameter: 'response_format' of type '{kind}' is not supported with this model.",
                "unsupported_value",
                "response_format",
            )

    def _first_message(self, text: str) -> tuple[bool, bool]:
        """Whether a first message makes the model play the user, and whether it asks for JSON."""
        key = hash(text)
        found = self._first_messages.get(key)
        if found is None:
            if len(self._first_messages) >= _MAX_REMEMBERED:
                self._first_messages.clear()
            found = bool(self._user_pattern.search(text[:2000])), self._asks_json(text)
            self._first_messages[key] = found
        return found

    def _asks_json(self, text: str) -> bool:
        return ("JSON" in text or "json" in text) and bool(self._json_pattern.search(text))
