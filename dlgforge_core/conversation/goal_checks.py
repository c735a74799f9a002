"""Goals that are checked and not judged: whether what a goal expects is what happened, and why not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import orjson

from dlgforge_core.common.json_schema import problem_of
from dlgforge_core.config.expectations import (
    CallPatternConfig,
    ExpectConfig,
    ExpectedCallConfig,
    ExpectedStateConfig,
    ForbiddenCallConfig,
    Outcome,
)
from dlgforge_core.dialogue import DialoguePlan, Turn, state_after
from dlgforge_core.tool_events import ToolEvent, ToolProblem
from dlgforge_core.verdicts import GoalVerdict

_MAX_SHOWN = 120
_MAX_REASON = 600


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must have happened in a planned dialogue for its user's goal to be met."""

    expect: ExpectConfig
    plan: DialoguePlan

    @classmethod
    def of(cls, plan: DialoguePlan) -> Self | None:
        """Return what a dialogue's goal expects; None where it has none, or the judge says if it was met."""
        return cls(ExpectConfig.model_validate(plan.expects), plan) if plan.expects else None

    def verdict(self, turns: Sequence[Turn]) -> GoalVerdict:
        """Return whether it was met in a dialogue that ends with these turns."""
        return checked_goal(self.expect, turns, state_after(self.plan, turns))


def checked_goal(
    expect: ExpectConfig, turns: Iterable[Turn], state: Mapping[str, Any] | None = None
) -> GoalVerdict:
    """Return whether the calls of a dialogue and the final `state` of its tools are as expected.

    Calls are those behind its answers, in the order they were made; those of answers that were not chosen
    count for nothing.
    """
    events = [event for turn in turns for event in turn.details.tools]
    problems = [*_calls(expect, events), *_forbidden(expect, events)]
    if expect.state.active:
        problems += _state(expect.state, {} if state is None else state)
    if problems:
        return GoalVerdict(False, _shown("; ".join(problems), _MAX_REASON))
    return GoalVerdict(True, f"{', '.join(_kept(expect))}.".capitalize())


def _kept(expect: ExpectConfig) -> Iterator[str]:
    if n := len(expect.calls):
        yield f"{n} expected call{'s were' if n > 1 else ' was'} made{' in order' if expect.ordered else ''}"
    if expect.exactly:
        yield "no other succeeded"
    if expect.forbidden:
        yield "no forbidden call was made"
    if expect.state.active:
        yield "the state is as expected"


# Calls


def _calls(expect: ExpectConfig, events: Sequence[ToolEvent]) -> Iterator[str]:
    fits = [[n for n, event in enumerate(events) if _fits(pattern, event)] for pattern in expect.calls]
    taken = _in_order(fits) if expect.ordered else _assigned(fits)
    for pattern, number in zip(expect.calls, taken, strict=True):
        if number is None:
            yield _missing(pattern, events)
    if expect.exactly:
        used = set(taken)
        for n, event in enumerate(events):
            if n not in used and not event.failed:
                yield f"{_call_text(event)} was not expected"


def _forbidden(expect: ExpectConfig, events: Sequence[ToolEvent]) -> Iterator[str]:
    for pattern in expect.forbidden:
        found = next((event for event in events if _fits(pattern, event)), None)
        if found is not None:
            yield f"{_call_text(found)} was made, which is forbidden"


def _fits(pattern: ExpectedCallConfig | ForbiddenCallConfig, event: ToolEvent) -> bool:
    return _came_to(pattern.outcome, event) and _is_called_so(pattern, event)


def _is_called_so(pattern: CallPatternConfig, event: ToolEvent) -> bool:
    """Whether a call is one of these, whatever came of it."""
    return (
        event.name == pattern.name
        and all(
            name in event.arguments and not difference(value, event.arguments[name])
            for name, value in pattern.arguments.items()
        )
        and (not pattern.json_schema or not problem_of(dict(event.arguments), pattern.json_schema))
    )


def _came_to(outcome: Outcome, event: ToolEvent) -> bool:
    if outcome == "any":
        return True
    # A call that met a fault was not made at all: it neither did anything, nor was it refused.
    if outcome == "success":
        return not event.failed
    return event.failed and event.problem is not ToolProblem.FAULT


def _in_order(fits: Sequence[Sequence[int]]) -> list[int | None]:
    """Return for each pattern the first call after that of the one before; None where there is none."""
    taken: list[int | None] = []
    last = -1
    for numbers in fits:
        first = next((number for number in numbers if number > last), None)
        taken.append(first)
        last = last if first is None else first
    return taken


def _assigned(fits: Sequence[Sequence[int]]) -> list[int | None]:
    """Return a call of its own for as many patterns as can have one."""
    owner: dict[int, int] = {}

    def assign(pattern: int, tried: set[int]) -> bool:
        for number in fits[pattern]:
            if number in tried:
                continue
            tried.add(number)
            if number not in owner or assign(owner[number], tried):
                owner[number] = pattern
                return True
        return False

    for pattern in range(len(fits)):
        assign(pattern, set())
    taken = {pattern: number for number, pattern in owner.items()}
    return [taken.get(pattern) for pattern in range(len(fits))]


def _missing(pattern: ExpectedCallConfig, events: Sequence[ToolEvent]) -> str:
    """Say which call was not made, and what came nearest to it."""
    wanted = {"success": "", "error": " that is refused", "any": ""}[pattern.outcome]
    text = f"there is no{'' if events else ' call at all, and no'} call of {pattern.name}{wanted}"
    if pattern.arguments:
        text += f" with {_json(pattern.arguments)}"
    if pattern.json_schema:
        text += " by its schema" if not pattern.arguments else " and by its schema"
    near = [event for event in events if event.name == pattern.name]
    if not near:
        return text
    if any(_fits(pattern, event) for event in near):
        return f"{text} where it was expected, but elsewhere"
    last = near[-1]
    if _is_called_so(pattern, last):
        return f"{text}: it {'failed' if last.failed else 'succeeded'}"
    return f"{text}; the last one had {_json(last.arguments)}"


def _call_text(event: ToolEvent) -> str:
    return f"the call {event.name}({_json(event.arguments)})"


# The state


def _state(expect: ExpectedStateConfig, state: Mapping[str, Any]) -> Iterator[str]:
    for wanted, partly in ((expect.contains, True), (expect.equals, False)):
        if wanted and (found := difference(wanted, state, "the state", partly=partly)):
            yield found
    if expect.json_schema and (problem := problem_of(dict(state), expect.json_schema)):
        yield f"the state does not follow its schema: {problem}"


def difference(wanted: Any, found: Any, what: str = "it", *, partly: bool = False) -> str:
    """Return the first difference between two pieces of plain data, or "".

    Of objects, `partly` looks at the keys of the wanted one alone. A text equals the number or truth value
    that it spells, as what templates make are texts.
    """
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return _of_objects(wanted, found, what, partly=partly)
    if isinstance(wanted, list) and isinstance(found, list | tuple):
        if len(wanted) != len(found):
            return f"{what} has {len(found)} items, and not {len(wanted)}"
        pairs = enumerate(zip(wanted, found, strict=True))
        return next(filter(None, (difference(a, b, f"{what}[{i}]") for i, (a, b) in pairs)), "")
    return "" if _same(wanted, found) else f"{what} is {_json(found)}, and not {_json(wanted)}"


def _of_objects(wanted: Mapping[str, Any], found: Mapping[str, Any], what: str, *, partly: bool) -> str:
    for key, value in wanted.items():
        if key not in found:
            return f"{what} has no {key}"
        if problem := difference(value, found[key], f"{what}.{key}", partly=partly):
            return problem
    more = [] if partly else [key for key in found if key not in wanted]
    return f"{what} has {more[0]} as well" if more else ""


def _same(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(found, bool):
        return wanted is found or (isinstance(wanted, str) and wanted == _json(found))
    if isinstance(wanted, str) and isinstance(found, int | float):
        try:
            return float(wanted) == found
        except ValueError:
            return False
    return bool(wanted == found)


def _json(value: Any) -> str:
    text = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    return _shown(text, _MAX_SHOWN)


def _shown(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
