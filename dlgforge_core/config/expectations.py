"""`conversation.goals.expect`: by what is seen, without a judge, whether a user's goal was met."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from dlgforge_core.common.hints import hint
from dlgforge_core.config.base import ConfigModel, KeyedError
from dlgforge_core.config.functions import Schema
from dlgforge_core.config.tools import SEARCHES, ToolsConfig

_MAX_CALLS = 100
Outcome = Literal["success", "error", "any"]


class CallPatternConfig(ConfigModel):
    """Calls of a tool: all of them, or those with certain arguments."""

    name: str = Field(description="The tool's name.")
    arguments: dict[str, Any] = Field(
        {}, description="Arguments that the call must have with these values; it may have others, too."
    )
    json_schema: Schema = Field(
        {}, description="A JSON schema that the call's arguments, as an object, must follow."
    )


class ExpectedCallConfig(CallPatternConfig):
    """A call that must have been made; of two that are alike there must have been two."""

    outcome: Outcome = Field(
        "success",
        description="What must have come of it: success, error (refused or failed, and not by a fault of "
        "tools.faults), or any.",
    )


class ForbiddenCallConfig(CallPatternConfig):
    """A call that must not have been made."""

    outcome: Outcome = Field("any", description="Of which calls that is: success, error, or any.")


class ExpectedStateConfig(ConfigModel):
    """What the state must be at the end of the dialogue; with no key set it may be anything."""

    contains: dict[str, Any] = Field(
        {},
        description="Part of it: of objects the keys that are named here, in them likewise; lists and all "
        "else as they stand.",
    )
    equals: dict[str, Any] = Field({}, description="All of it.")
    json_schema: Schema = Field({}, description="A JSON schema that it must follow.")

    @property
    def active(self) -> bool:
        """Whether anything is expected of it."""
        return bool(self.contains or self.equals or self.json_schema)


class ExpectConfig(ConfigModel):
    """What must have happened for a goal to be met; with no key set the judge says whether it was.

    In all texts in it, keys of objects included, the variables of the goal's template may be used.
    """

    calls: Annotated[list[ExpectedCallConfig], Field(max_length=_MAX_CALLS)] = Field(
        [], description="Calls that must have been made in the dialogue, each by a call of its own."
    )
    ordered: bool = Field(
        False, description="They must have been made in this order; others may lie between."
    )
    exactly: bool = Field(False, description="No other call may have succeeded.")
    forbidden: Annotated[list[ForbiddenCallConfig], Field(max_length=_MAX_CALLS)] = Field(
        [], description="Calls that must not have been made."
    )
    state: ExpectedStateConfig = Field(
        default_factory=ExpectedStateConfig, description="What the state of the tools must be at the end."
    )

    @property
    def active(self) -> bool:
        """Whether anything is expected, so that nobody has to judge."""
        return bool(self.calls or self.exactly or self.forbidden or self.state.active)

    @property
    def patterns(self) -> Iterator[tuple[tuple[str, int], CallPatternConfig]]:
        """The calls that it speaks of, each with its place."""
        for key in ("calls", "forbidden"):
            for number, pattern in enumerate(getattr(self, key)):
                yield (key, number), pattern

    @property
    def plain(self) -> dict[str, Any]:
        """What is set, as plain data."""
        return self.model_dump(mode="json", exclude_defaults=True)


def tools_in(expected: Mapping[str, Any]) -> set[str]:
    """Return the tools that an expectation speaks of, given as the plan has it."""
    return {pattern["name"] for key in ("calls", "forbidden") for pattern in expected.get(key, ())}


def check_expectation(expect: ExpectConfig, tools: ToolsConfig, key: tuple[int | str, ...]) -> None:
    """Raise KeyedError for what is expected, under `key`, of tools or a state that there are not."""
    if not tools.enabled:
        raise KeyedError(
            key,
            "it is seen from calls of tools, and tools.enabled is false; set that to true, or leave this "
            "out, so that the judge says whether the goal was met",
        )
    if expect.state.active and not tools.state.initial:
        raise KeyedError(
            (*key, "state"), "tools have no state; set tools.state.initial, or leave the state out"
        )
    functions = {function.called: function for function in tools.functions}
    known = [*(name for name in SEARCHES if name != "web_search" or tools.web_search), *functions]
    for where, pattern in expect.patterns:
        if "{" not in pattern.name and pattern.name not in known:
            problem = f"{pattern.name!r} is no tool of the recipe; {hint(pattern.name, known, 'choose from')}"
            raise KeyedError((*key, *where, "name"), problem)
        declared = functions[pattern.name].parameters if pattern.name in functions else {}
        properties = declared.get("properties", {})
        for name in pattern.arguments if properties else ():
            if "{" not in name and name not in properties:
                problem = f"{pattern.name} has no parameter {name!r}; {hint(name, properties, 'it has')}"
                raise KeyedError((*key, *where, "arguments"), problem)


def texts_in(value: Any) -> Iterator[str]:
    """Yield the texts in plain data, keys of objects included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts_in(key)
            yield from texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_in(item)


def with_texts_made(value: Any, make: Callable[[str], str]) -> Any:
    """Return plain data with each text in it, keys of objects included, as `make` makes it."""
    if isinstance(value, str):
        return make(value)
    if isinstance(value, Mapping):
        return {with_texts_made(str(key), make): with_texts_made(item, make) for key, item in value.items()}
    if isinstance(value, list):
        return [with_texts_made(item, make) for item in value]
    return value
