"""Rounds of tool calls on the way to an answer: what is called, what it gives, how both go back."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import orjson

from dlgforge_core.conversation.outcomes import ToolResults, ToolsCalled
from dlgforge_core.conversation.steps import Answer, CallTools, ToolRound
from dlgforge_core.dialogue import Turn
from dlgforge_core.generation.grounding import Grounding
from dlgforge_core.knowledge.types import Hit
from dlgforge_core.llm.chat import Completion
from dlgforge_core.llm.tool_calls import Message, ToolCall, call_message, fold, result_message
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.tools.executor import NO_CONTEXT, CallContext
from dlgforge_core.tools.toolbox import Toolbox

MAX_CALLS_AT_ONCE = 8
ContextOf = Callable[[CallTools, Sequence[ToolEvent]], CallContext]
"""Tells what a call finds that comes after these of its answer."""


def _none(step: CallTools, before: Sequence[ToolEvent]) -> CallContext:
    return NO_CONTEXT


def prompt_of(messages: Sequence[Message], step: Answer) -> list[Message]:
    """Return the prompt of an answer: `messages`, and what was called and found so far.

    Where no more tools are offered, that is told in words.
    """
    history = list(messages)
    for one in step.rounds[:-1] if step.without_last else step.rounds:
        history.append(dict(one.called.message))
        for call, event in zip(calls_of(one.called), one.results.events, strict=True):
            history.append(result_message(call, event.content))
    return history if step.offered else fold(history)


def tools_called(
    completion: Completion, step: Answer, turns: Sequence[Turn] = (), *, keep_reasoning: bool
) -> ToolsCalled:
    """Return the outcome of an answer that calls tools, after these turns."""
    events = [*(event for turn in turns for event in turn.details.tools), *events_of(step.all_rounds)]
    calls = _numbered(completion.tool_calls[:MAX_CALLS_AT_ONCE], events)
    return ToolsCalled(
        call_message(completion.text, calls, completion.state),
        {call.id: call.problem for call in calls if call.problem},
        completion.reasoning if keep_reasoning else "",
        step.candidate,
    )


def calls_of(called: ToolsCalled) -> Iterator[ToolCall]:
    """Yield the calls in a message of the assistant."""
    for item in called.message["tool_calls"]:
        identity, function = item["id"], item["function"]
        arguments = orjson.loads(function["arguments"])
        yield ToolCall(identity, function["name"], arguments, called.problems.get(identity, ""))


def events_of(rounds: Sequence[ToolRound]) -> tuple[ToolEvent, ...]:
    """Return what was called in all rounds, in order."""
    return tuple(event for one in rounds for event in one.results.events)


def call_reasoning_of(rounds: Sequence[ToolRound]) -> tuple[str, ...]:
    """Return what was thought before each call of all rounds, at the first of those made at once."""
    thoughts = [
        "" if number else one.called.reasoning
        for one in rounds
        for number, _ in enumerate(one.results.events)
    ]
    return tuple(thoughts) if any(thoughts) else ()


def call_rounds_of(rounds: Sequence[ToolRound]) -> tuple[int, ...]:
    """Return how many calls each round has; nothing where each has one."""
    sizes = tuple(len(one.results.events) for one in rounds)
    return sizes if any(size > 1 for size in sizes) else ()


def reasoning_of(rounds: Sequence[ToolRound], completion: Completion) -> str:
    """Return the reasoning of all rounds and of the answer."""
    parts = (*(one.called.reasoning for one in rounds), completion.reasoning)
    return "\n\n".join(part for part in parts if part)


async def call_tools(
    toolbox: Toolbox, step: CallTools, context_of: ContextOf = _none
) -> tuple[ToolResults, list[Hit]]:
    """Do the next that the assistant asks for: one call of a declared tool, or all searches up to one.

    Declared tools are called one after the other, so that each outcome is durable before the next call and
    finds the state that the one before has left. The hits are the passages that were shown. Raises what
    `Toolbox.execute` raises.
    """
    answered = step.answered.events if step.answered is not None else ()
    calls = list(calls_of(step.called))[len(answered) :]
    if toolbox.is_search(calls[0].name):
        searches = itertools.takewhile(lambda call: toolbox.is_search(call.name), calls)
        return await _search(toolbox, step, list(searches))
    before = (*events_of((*step.inherited, *step.rounds)), *answered)
    event, hits = await toolbox.execute(calls[0], context_of(step, before))
    return ToolResults((event,), candidate=step.candidate), list(hits)


async def _search(
    toolbox: Toolbox, step: CallTools, calls: Sequence[ToolCall]
) -> tuple[ToolResults, list[Hit]]:
    """Make these calls all at once; one that was made before is answered as it was then."""
    known = {
        _key(call): event
        for one in step.rounds
        for call, event in zip(calls_of(one.called), one.results.events, strict=True)
    }
    new = {_key(call): call for call in calls if _key(call) not in known}
    hits: list[Hit] = []
    results = await asyncio.gather(*(toolbox.execute(call) for call in new.values()))
    for key, (event, found) in zip(new, results, strict=True):
        known[key] = event
        hits.extend(found)
    events = tuple(dataclasses.replace(known[_key(call)], call_id=call.id) for call in calls)
    passages = tuple((hit.chunk.chunk_id, float(hit.score)) for hit in hits)
    return ToolResults(events, passages, step.candidate), hits


async def hits_of(
    rounds: Sequence[ToolRound], known: dict[str, Hit], grounding: Grounding | None
) -> list[Hit]:
    """Return the passages that tools found; those from before a resume are read again, into `known`."""
    found = [passage for one in rounds for passage in one.results.passages]
    missing = {chunk_id: score for chunk_id, score in found if chunk_id not in known}
    if missing and grounding is not None:
        chunks = await grounding.knowledge.chunks(list(missing))
        known |= {chunk.chunk_id: Hit(chunk, missing[chunk.chunk_id]) for chunk in chunks}
    return [known[chunk_id] for chunk_id, _ in found if chunk_id in known]


def _numbered(calls: Sequence[ToolCall], events: Sequence[ToolEvent]) -> list[ToolCall]:
    """Return the calls under ids that no other call has: some servers begin anew in every round."""
    taken = {event.call_id for event in events}
    numbered = []
    for position, call in enumerate(calls):
        identity = call.id
        if identity in taken:
            identity = f"{identity}_{len(events) + position}"
        taken.add(identity)
        numbered.append(dataclasses.replace(call, id=identity))
    return numbered


def _key(call: ToolCall) -> bytes:
    return orjson.dumps([call.name, call.arguments, call.problem], option=orjson.OPT_SORT_KEYS)
