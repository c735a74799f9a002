"""One dialogue's run: performs the steps that the script names, and records what comes of them."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Sequence

from dlgforge_core.config import AgentConfig
from dlgforge_core.conversation.acceptance import NONE_LACKING, Shortcomings
from dlgforge_core.conversation.outcomes import (
    Amended,
    Answered,
    AnswerRejected,
    Asked,
    Committed,
    Finished,
    Opened,
    Outcome,
    QuestionRejected,
    Rejection,
    ToolResults,
    UserLeft,
)
from dlgforge_core.conversation.script import ANSWER_ATTEMPTS
from dlgforge_core.conversation.steps import (
    Amend,
    Answer,
    Ask,
    Call,
    CallTools,
    Commit,
    Compare,
    End,
    Finish,
    Judge,
    Open,
    Step,
    Write,
)
from dlgforge_core.dialogue import Dialogue, DialoguePlan, Ending, Role, Turn, TurnDetails
from dlgforge_core.generation.dialogue_context import DialogueContext
from dlgforge_core.generation.grounding import Anchor, evidence_of
from dlgforge_core.generation.question_kinds import question_kinds
from dlgforge_core.generation.seed_turns import repeat_of_seed, translation
from dlgforge_core.generation.tool_context import call_tools_of, toolbox_of
from dlgforge_core.generation.tool_rounds import (
    call_reasoning_of,
    call_rounds_of,
    events_of,
    hits_of,
    prompt_of,
    reasoning_of,
    tools_called,
)
from dlgforge_core.generation.traced import complete_traced
from dlgforge_core.generation.verdicts import compare, verdict_on
from dlgforge_core.knowledge.types import Hit
from dlgforge_core.llm.client import CallError, Completion, Message, RequestRefusedError
from dlgforge_core.llm.tool_calls import ToolDefinition
from dlgforge_core.prompting import dialogue_prompts as prompts
from dlgforge_core.prompting.model_output import answer_of, question_of
from dlgforge_core.prompting.passage_marks import names_material
from dlgforge_core.prompting.quoting import quote_passages
from dlgforge_core.store.worker_store import Claim

_WHY = {Rejection.ASKED_BEFORE: prompts.ASKED_BEFORE, Rejection.NAMES_MATERIAL: prompts.NAMES_MATERIAL}


class DialogueRun:
    """Carries one claimed dialogue to its end, step by step.

    Each outcome is durable before the next step is begun, so that a crash costs the calls in flight and no
    more. `on_outcome` is told of every outcome, a committed turn included.
    """

    def __init__(
        self,
        context: DialogueContext,
        claim: Claim,
        on_outcome: Callable[[Outcome | Committed | Finished | Amended], None] = lambda outcome: None,
    ) -> None:
        self._context = context
        self._on_outcome = on_outcome
        self._plan: DialoguePlan = claim.plan
        self._state = claim.state
        self.reviews = claim.state.review > 0
        """Whether the dialogue was finished before, and lacks verdicts alone."""
        self.accepted = True
        """Whether the dialogue counts, once it is finished."""
        self._anchor: Anchor | None = None
        self._given: tuple[int, list[Hit]] = (-1, [])
        """The passages that the assistant was given for the question of a turn."""
        self._found: dict[str, Hit] = {}
        """Passages that tools found, by chunk id."""
        self._kinds = question_kinds(
            context.question_kinds, context.seed, self._plan.dialogue_id, self._plan.n_turns
        )

    @property
    def turn(self) -> int:
        """The turn that is being made, from 1; of a finished dialogue the last."""
        return min(self._state.index + 1, self._plan.n_turns)

    async def run(self) -> End:
        """Do what is left to do; returns how the dialogue ended.

        Raises RequestRefusedError when it is not known yet whether a request was refused for what it holds;
        `go_on_without` then goes on, once that is known.
        """
        step = self._next()
        while not isinstance(step, End):
            step = await self._do(step)
        return step

    async def go_on_without(self, error: CallError) -> End:
        """Go on after a call that cannot succeed, as the script says."""
        step = self._next()
        assert isinstance(step, Call | CallTools)
        await self._record(step.failure(error.reason, str(error)))
        return await self.run()

    def _next(self) -> Step:
        return self._context.script.next(self._state)

    async def _do(self, step: Step) -> Step:
        store, dialogue_id = self._context.store, self._plan.dialogue_id
        match step:
            case Commit():
                await self._commit(step)
                return self._advance(Committed(step.turn))
            case Finish():
                await self._finish(step)
                return self._advance(Finished())
            case Amend(judgements, unjudged, goal):
                await store.amend(dialogue_id, judgements, unjudged, goal)
                return self._advance(Amended())
        assert isinstance(step, Call | CallTools)
        try:
            match step:
                case CallTools():
                    return await self._record(await self._call_tools(step))
                case Ask():
                    return await self._ask(step)
                case Answer():
                    return await self._record(await self._answer(step))
                case Open():
                    return await self._record(await self._open())
                case Judge():
                    return await self._record(await verdict_on(self._context, self._plan, self._state, step))
                case Compare():
                    return await self._record(await compare(self._context, self._plan, self._state, step))
        except RequestRefusedError:
            raise
        except CallError as error:
            return await self._record(step.failure(error.reason, str(error)))

    async def _commit(self, step: Commit) -> None:
        shortcomings = await self._shortcomings(step, step.turn) if step.final else NONE_LACKING
        await self._context.store.commit_turn(
            self._plan.dialogue_id,
            step.turn,
            final=step.final,
            judgement=step.judgement,
            unjudged=step.unjudged,
            shortcomings=shortcomings,
            goal=step.goal,
        )
        self.accepted = not shortcomings

    async def _finish(self, step: Finish) -> None:
        shortcomings = await self._shortcomings(step)
        await self._context.store.finish(
            self._plan.dialogue_id,
            step.ended_by,
            judgement=step.judgement,
            goal=step.goal,
            unjudged=step.unjudged,
            shortcomings=shortcomings,
        )
        self.accepted = not shortcomings

    async def _shortcomings(self, step: Commit | Finish, *last: Turn) -> Shortcomings:
        """Return what the dialogue lacks to be accepted, now that its last turn is there."""
        if (acceptance := self._context.acceptance) is None:
            return NONE_LACKING
        ended_by = step.ended_by if isinstance(step, Finish) else Ending.PLANNED
        turns = (*self._state.turns, *last)
        dialogue = Dialogue(self._plan, turns, step.judgement, ended_by=ended_by, goal=step.goal)
        # On a thread: the first detection of a language loads its models.
        return await asyncio.to_thread(acceptance.shortcomings, dialogue)

    async def _record(self, outcome: Outcome) -> Step:
        """Make an outcome durable, but for one that the next step folds away at once."""
        index, position = self._state.index, self._state.progress.recorded
        step = self._advance(outcome)
        if not isinstance(step, Write | End):
            await self._context.store.record(self._plan.dialogue_id, index, position, outcome)
        return step

    def _advance(self, outcome: Outcome | Committed | Finished | Amended) -> Step:
        self._state = self._state.after(outcome)
        self._on_outcome(outcome)
        return self._next()

    # The user simulator

    async def _ask(self, step: Ask) -> Step:
        """Return a question that nobody has asked before."""
        if (given := self._state.exchange) is not None:
            return await self._record(Asked(await self._translated(Role.USER_SIMULATOR, step, given.user)))
        messages = await self._asking(step)
        if step.may_end:
            question = await self._question_or_end(step, messages)
            if not question:
                return await self._record(UserLeft())
        else:
            completion = await self._complete(Role.USER_SIMULATOR, step.turn, step.attempt, messages)
            question = question_of(completion.text)
        grounded = self._context.grounding is not None
        if grounded and not step.last and names_material(question, self._plan.topic.topic):
            return await self._record(QuestionRejected(question, Rejection.NAMES_MATERIAL))
        if (repeat := repeat_of_seed(question, self._state.turns)) is not None:
            return await self._record(repeat)
        position = self._state.progress.recorded
        reservation = await self._context.store.reserve(self._plan.dialogue_id, step.turn, question, position)
        if reservation.accepted:
            return self._advance(Asked(question))
        similarity, collides_with = reservation.similarity, reservation.collides_with
        return self._advance(QuestionRejected(question, Rejection.ASKED_BEFORE, similarity, collides_with))

    async def _asking(self, step: Ask) -> list[Message]:
        anchor, templates = await self._anchored(), self._context.templates
        messages = prompts.user_simulator(
            self._plan,
            self._state.turns,
            kinds=self._kinds[: step.turn + 1],
            evidence=quote_passages([anchor.evidence[step.turn].text]) if anchor is not None else "",
            on_topic=anchor is None or anchor.on_topic,
            instructions=self._context.agents.qa_generator.instructions,
            examples=self._context.examples.of(self._plan, Role.USER_SIMULATOR),
            templates=templates,
            opening=self._state.opening,
        )
        for rejected in step.rejected:
            why = _WHY[rejected.why]
            messages = prompts.another_question(self._plan, messages, rejected.question, why, templates)
        return messages

    async def _question_or_end(self, step: Ask, messages: Sequence[Message]) -> str:
        """Return the next question; empty when the user ends the conversation."""
        context, anchor, role = self._context, await self._anchored(), Role.USER_SIMULATOR
        on_topic = anchor is None or anchor.on_topic
        messages, form = prompts.or_end(self._plan, messages, on_topic=on_topic, templates=context.templates)
        seed = context.call_seed(self._plan.dialogue_id, role, step.turn, step.attempt)
        complete: Callable[..., Awaitable[tuple[str | None, Completion]]] = context.client.complete_form
        question, _ = await context.call(complete, self._plan, self._state, role, messages, form, seed=seed)
        return question or ""

    async def _anchored(self) -> Anchor | None:
        if self._state.exchange is not None:
            return None  # a question of the seed's comes from no passage
        if self._anchor is None and (grounding := self._context.grounding) is not None:
            self._anchor = await grounding.anchor(self._plan)
        return self._anchor

    # The assistant

    async def _open(self) -> Opened:
        """Open the conversation; no question was asked yet that passages could be found for."""
        anchor, context = await self._anchored(), self._context
        messages = prompts.assistant_opening(
            self._plan,
            grounded=anchor is not None,
            on_topic=anchor is None or anchor.on_topic,
            instructions=context.agents.kb_responder.instructions,
            examples=context.examples.of(self._plan, Role.ASSISTANT),
            templates=context.templates,
        )
        completion = await self._complete(Role.ASSISTANT, self._plan.n_turns, 0, messages, traced=False)
        return Opened(completion.text, completion.reasoning if context.keep_reasoning else "")

    async def _answer(self, step: Answer) -> Outcome:
        origin, exchange = self._state.origin, self._state.exchange
        if exchange is not None and exchange.assistant:  # what is not translated is there already
            text = await self._translated(Role.ASSISTANT, step, exchange.assistant)
            return Answered(text, TurnDetails(origin=origin))
        anchor = await self._anchored()
        given = await self._passages(step)
        messages = self._answering(step, anchor, given)
        tools = (toolbox_of(self._context, self._plan).definitions or None) if step.offered else None
        agent, model = self._context.assistants.of_step(step)
        attempt = step.attempt + step.candidate * ANSWER_ATTEMPTS
        completion = await self._complete(
            Role.ASSISTANT, step.turn, attempt, prompt_of(messages, step), tools, agent, model
        )
        keep_reasoning = self._context.keep_reasoning
        if completion.tool_calls:
            return tools_called(completion, step, self._state.turns, keep_reasoning=keep_reasoning)
        answer = answer_of(completion.text, grounded=self._context.grounding is not None)
        if not answer:
            return AnswerRejected(step.candidate)
        hits = [*given, *await hits_of(step.all_rounds, self._found, self._context.grounding)]
        details = TurnDetails(
            evidence=evidence_of(
                self._plan, anchor.evidence[step.turn] if anchor is not None else None, hits, answer
            ),
            tools=events_of(step.all_rounds),
            reasoning=reasoning_of(step.all_rounds, completion) if keep_reasoning else "",
            call_reasoning=call_reasoning_of(step.all_rounds) if keep_reasoning else (),
            call_rounds=call_rounds_of(step.all_rounds),
            off_topic=anchor is not None and not anchor.on_topic,
            origin=origin,
        )
        return Answered(answer, details, step.candidate, self._context.assistants.source(step))

    def _answering(self, step: Answer, anchor: Anchor | None, given: Sequence[Hit]) -> list[Message]:
        """Return the prompt for an answer, before any tool calls of its own."""
        templates = self._context.templates
        asked = self._context.trace
        trace = asked.parts if asked is not None else ()
        form = asked.words if asked is not None and step.offered else ""
        messages = prompts.assistant(
            self._plan,
            self._state.turns,
            step.question,
            grounded=bool(given),
            passages=quote_passages([hit.chunk.text for hit in given]),
            on_topic=anchor is None or anchor.on_topic,
            instructions=self._context.agents.kb_responder.instructions,
            examples=self._context.examples.of(self._plan, Role.ASSISTANT),
            trace=trace,
            form=form,
            templates=templates,
            opening=self._state.opening,
        )
        if (review := step.review) is None:
            return messages
        shown = prompt_of(messages, dataclasses.replace(step, rounds=review.rounds, without_last=False))
        return prompts.revision(
            *(self._plan, shown, step.question, review.answered.answer, review.judgement),
            trace=trace,
            form=form,
            templates=templates,
        )

    async def _passages(self, step: Answer) -> list[Hit]:
        """Return what the assistant is given for the question, found once for all its attempts."""
        grounding, anchor = self._context.grounding, await self._anchored()
        if grounding is None:
            return []
        turn, hits = self._given
        if turn != step.turn:
            asked_from = anchor.evidence[step.turn] if anchor is not None else None
            hits = await grounding.passages(self._plan, step.question, asked_from)
            self._given = step.turn, hits
        return hits

    async def _translated(self, role: Role, step: Ask | Answer, text: str) -> str:
        """Return what the seed has one side say in this turn, in the dialogue's language."""
        instructions, templates = self._context.agents.of(role).instructions, self._context.templates
        messages = translation(self._plan, self._state, role, text, instructions, templates)
        return (await self._complete(role, step.turn, step.attempt, messages, traced=False)).text.strip()

    async def _call_tools(self, step: CallTools) -> ToolResults:
        results, hits = await call_tools_of(self._context, self._plan, self._state, step)
        self._found |= {hit.chunk.chunk_id: hit for hit in hits}
        return results

    async def _complete(
        self,
        role: Role,
        index: int,
        attempt: int,
        messages: Sequence[Message],
        tools: Sequence[ToolDefinition] | None = None,
        agent: AgentConfig | None = None,
        model: str = "",
        *,
        traced: bool = True,
    ) -> Completion:
        context, complete = self._context, self._context.client.complete
        if context.trace is not None and traced and role is Role.ASSISTANT:
            complete = functools.partial(complete_traced, context.client, context.trace)
        return await context.call(
            *(complete, self._plan, self._state, role, messages),
            seed=context.call_seed(self._plan.dialogue_id, role, index, attempt),
            agent=agent,
            model=model,
            tools=tools,
        )
