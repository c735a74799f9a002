"""The script of a dialogue: what it asks for next, after any outcomes, replayed or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import GenerationConfig, validate
from dlgforge_core.conversation.outcomes import (
    GOAL,
    Amended,
    Answered,
    AnswerRejected,
    AnswerSource,
    Asked,
    Committed,
    Compared,
    Failed,
    Finished,
    GoalJudged,
    Judged,
    Opened,
    Outcome,
    QuestionRejected,
    Rejection,
    ToolResults,
    ToolsCalled,
    Unjudged,
    UserLeft,
    outcome_from,
)
from dlgforge_core.conversation.script import Script
from dlgforge_core.conversation.state import State, fold
from dlgforge_core.conversation.steps import (
    Amend,
    Answer,
    Ask,
    Call,
    CallTools,
    Commit,
    Compare,
    Done,
    Dropped,
    End,
    Finish,
    Judge,
    Open,
    Review,
    Step,
)
from dlgforge_core.dialogue import DialoguePlan, DropReason, Ending, Evidence, Role, Turn, TurnDetails
from dlgforge_core.planning.personas import NOBODY
from dlgforge_core.planning.plan import with_conversation
from dlgforge_core.sources import Exchange, FromSeed, Origin, SeedTopic
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.verdicts import GoalVerdict, Judgement

EVIDENCE = Evidence("c1", "bread.md", Role.ASSISTANT, score=0.5, cited=True)
EVENT = ToolEvent("search", {"query": None}, result="> Bread", call_id="a")
CALLED = ToolsCalled({"role": "assistant", "content": None, "tool_calls": []}, {"a": "bad JSON"}, "Hm.")
GOOD = Judgement(8, ("clear",), "fine")

SCRIPTS = (
    st.builds(
        Script,
        question_attempts=st.integers(1, 3),
        tool_rounds=st.integers(0, 2),
        judges_turns=st.booleans(),
        judges_whole=st.booleans(),
        opens=st.booleans(),
        may_end_after=st.one_of(st.none(), st.integers(1, 3)),
        judges_goal=st.booleans(),
        candidates=st.sampled_from([1, 1, 3]),
        revise=st.sampled_from([None, 5.0, 9.0]),
    )
    .map(lambda s: replace(s, judges_whole=s.judges_whole and not s.judges_turns and not s.judges_goal))
    .map(lambda s: s if s.judges_turns else replace(s, revise=None))
)

VERDICTS = st.builds(Judgement, st.integers(0, 10), st.just(("clear",)), st.just("fine"))

Any = Outcome | Committed | Finished | Amended


def outcomes_of(step: Step, pick: st.DataObject) -> Any:
    """Return what may come of a step, drawn at random."""
    match step:
        case Commit(turn):
            return Committed(turn)
        case Finish():
            return Finished()
        case Amend():
            return Amended()
        case Open():
            possible: list[Outcome] = [Opened("Welcome.", "Hm.")]
        case CallTools():
            # All at once, or in parts; or the model that plays a tool cannot be used.
            answered_calls = len(step.answered.events) if step.answered is not None else 0
            left = len(step.called.message["tool_calls"]) - answered_calls
            assert left > 0
            events = (EVENT,) * pick.draw(st.integers(1, left))
            possible = [ToolResults(events, (("c1", 0.25),), step.candidate)] * 3
        case Ask():
            refused = QuestionRejected("Why?", pick.draw(st.sampled_from(Rejection)), 0.9, "why")
            possible = [Asked("Why?"), refused, *([UserLeft()] if step.may_end else [])]
        case Answer():
            details = TurnDetails((EVIDENCE,), (EVENT,), "Hm.", True)
            source = AnswerSource("m", 0.5, step.review is not None)
            answered = Answered(f"Because {step.candidate}.", details, step.candidate, source)
            calls = [{"id": f"c{n}"} for n in range(pick.draw(st.integers(1, 3)))]
            message = {**CALLED.message, "tool_calls": calls}
            called = replace(CALLED, message=message, candidate=step.candidate)
            possible = [answered, AnswerRejected(step.candidate), *([called] if step.offered else [])]
        case Judge(subject):
            verdict = GoalVerdict(pick.draw(st.booleans()), "so")
            judged = Judged(subject, pick.draw(VERDICTS), step.candidate)
            possible = [GoalJudged(verdict) if subject == GOAL else judged]
        case Compare(turn, candidates):
            possible = [Compared(turn, {number: pick.draw(VERDICTS) for number in candidates})]
        case _:
            raise AssertionError(step)
    failure = step.failure(pick.draw(st.sampled_from(DropReason)), "down")
    return pick.draw(st.sampled_from([*possible, failure]))


def played(script: Script, state: State, pick: st.DataObject) -> Iterator[tuple[State, Step, Any]]:
    """Every state of a dialogue, the step named there and its outcome, to the end."""
    for _ in range(10_000):
        step = script.next(state)
        if isinstance(step, End):
            return
        outcome = of_turn(state, outcomes_of(step, pick))
        yield state, step, outcome
        state = state.after(outcome)
    pytest.fail("the script does not end")


def of_turn(state: State, outcome: Any) -> Any:
    """Return the outcome as it is in this turn: there is one translation only, made with no passages."""
    if not isinstance(outcome, Answered):
        return outcome
    if state.has_given_answer:
        return Answered(outcome.answer, TurnDetails(origin=state.origin), outcome.candidate)
    return replace(outcome, details=replace(outcome.details, origin=state.origin))


def reread(outcome: Any) -> Any:
    """Return the outcome as it is after it was recorded and read."""
    if isinstance(outcome, Committed | Finished | Amended):
        return outcome
    return outcome_from(outcome.kind, orjson.loads(orjson.dumps(outcome.to_json())))


def plan_of(
    n_turns: int, from_seed: FromSeed | None = None, exchanges: Sequence[Exchange] = ()
) -> DialoguePlan:
    """Return a dialogue with what is made of a seed's conversation, where there is one."""
    spoken = [
        (role, text) for one in exchanges for role, text in (("user", one.user), ("assistant", one.assistant))
    ]
    messages = [{"role": role, "content": text} for role, text in spoken if text]
    plan = DialoguePlan("d", 0, "en", n_turns, SeedTopic("t", "en", "", messages=messages), NOBODY, NOBODY)
    return plan if from_seed is None else with_conversation(plan, from_seed)


CONVERSATIONS = st.builds(
    lambda whole, asks: (
        [Exchange(f"q{n}", f"a{n}") for n in range(whole)] + [Exchange("last?")] * (asks or not whole)
    ),
    st.integers(0, 2),
    st.booleans(),
)
PLANS = st.builds(plan_of, st.integers(1, 3), st.none() | st.sampled_from(FromSeed), CONVERSATIONS)


@settings(max_examples=80, deadline=None)
@given(SCRIPTS, st.integers(1, 3), st.booleans(), st.data())
def test_any_prefix_replayed_names_the_same_step(
    script: Script, n_turns: int, has_goal: bool, pick: st.DataObject
) -> None:
    begun = State(n_turns, has_goal=has_goal)
    taken: list[Any] = []
    asked: list[Step] = []
    for state, step, outcome in played(script, begun, pick):
        replayed = fold(begun, map(reread, taken))
        assert replayed == state
        assert script.next(replayed) == step
        # A resume begins with the committed turns, and has the outcomes of the one in progress alone.
        last = max((n for n, one in enumerate(taken) if isinstance(one, Committed)), default=-1)
        resumed = fold(replace(begun, turns=state.turns), map(reread, taken[last + 1 :]))
        assert script.next(resumed) == step
        assert script.remaining(resumed) == script.remaining(state) >= isinstance(step, Call)
        assert step not in asked, "asked for twice"
        asked.append(step)
        taken.append(outcome)
    ended = fold(begun, taken)
    end = script.next(ended)
    assert isinstance(end, Done | Dropped)
    if isinstance(end, Done):
        made = [one.turn.index for one in taken if isinstance(one, Committed)]
        left = UserLeft() in taken
        assert made == list(range(len(made)))
        assert len(made) == n_turns or (left and len(made) >= (script.may_end_after or 0) > 0)
        assert left == (Finished() in taken)
        assert [turn.details.opening for turn in ended.turns] == [
            "Welcome." if script.opens and not n else "" for n in range(len(made))
        ]
        verdicts = [step.subject for step in asked if isinstance(step, Judge)]
        at_end = [
            *([None] if script.judges_whole else []),
            *([GOAL] if script.judges_goal and has_goal else []),
        ]
        assert verdicts[len(verdicts) - len(at_end) :] == at_end
        if script.candidates == 1 and script.revise is None:
            assert verdicts == [*(made if script.judges_turns else []), *at_end]
    # At most: all attempts at a question, at an answer with its tools and one without, and the verdicts.
    answer = (script.candidates + 1) * 2 * (2 * script.tool_rounds + 2)
    assert len(taken) <= n_turns * (script.question_attempts + answer + 3) + 5


def calls_of_turn(script: Script, plan: DialoguePlan, index: int) -> int:
    """Return how many calls a turn of a dialogue takes when nothing fails, without a revision."""
    translates = plan.from_seed is FromSeed.TRANSLATE
    seed = plan.given[index] if index < len(plan.given) else None
    if seed is not None and seed.assistant:
        return 2 + script.judges_turns if translates else 0
    asks = seed is None or translates
    return asks + script.candidates + (script.judges_turns or script.candidates > 1)


@settings(max_examples=60, deadline=None)
@given(SCRIPTS, PLANS, st.data())
def test_what_is_left_is_what_comes_when_nothing_fails(
    script: Script, plan: DialoguePlan, pick: st.DataObject
) -> None:
    script = replace(script, may_end_after=None, opens=script.opens and plan.from_seed is None)
    state, due = State.of(plan, has_goal=True), 0
    left = script.remaining(state)
    assert left == sum(calls_of_turn(script, plan, n) for n in range(plan.n_turns)) + (
        script.judges_whole + script.judges_goal + script.opens
    )
    while not isinstance(step := script.next(state), End):
        outcome, is_given = of_turn(state, smooth(step, pick)), state.has_given_answer
        state = state.after(outcome)
        revised = any(
            isinstance(v, Judged) and v.candidate == script.candidates for v in verdicts_of(outcome)
        )
        poor = [v for v in verdicts_of(outcome) if v.subject is not None and not revised]
        if script.revise is not None and poor and not is_given:
            due += 2 * (max(v.judgement.score for v in poor) < script.revise)
        left -= not isinstance(step, Commit)
        assert script.remaining(state) == left + due, step
    assert left + due == 0
    for turn in state.turns:
        if turn.index >= len(plan.given) or not plan.given[turn.index].assistant:
            check_choice(script, turn)


def smooth(step: Step, pick: st.DataObject) -> Any:
    """Return what comes of a step when nothing fails, and no tool is called."""
    match step:
        case Ask():
            return ASKED
        case Answer():
            source = AnswerSource("m", None, step.review is not None)
            return Answered(f"Because {step.candidate}.", candidate=step.candidate, source=source)
        case Open():
            return Opened("Welcome.")
        case Judge(subject) if subject == GOAL:
            return GoalJudged(GoalVerdict(True, "so"))
        case Judge(subject):
            return Judged(subject, pick.draw(VERDICTS), step.candidate)
        case Compare(turn, candidates):
            return Compared(turn, {number: pick.draw(VERDICTS) for number in candidates})
        case Commit(turn):
            return Committed(turn)
    raise AssertionError(step)


def verdicts_of(outcome: Any) -> tuple[Judged, ...]:
    match outcome:
        case Judged():
            return (outcome,)
        case Compared():
            return outcome.verdicts
        case _:
            return ()


def check_choice(script: Script, turn: Turn) -> None:
    """Check that the answer has the highest score that there is, and that the verdict on it is the turn's."""
    candidates = turn.details.candidates
    chosen = [one for one in candidates if one.chosen]
    assert [one.answer for one in chosen] == [turn.assistant]
    scores = [one.judgement.score for one in candidates if one.judgement is not None]
    if script.candidates > 1 or script.judges_turns:
        assert chosen[0].judgement is not None
        assert chosen[0].judgement.score == max(scores)
        assert (
            chosen == [one for one in candidates if one.judgement and one.judgement.score == max(scores)][:1]
        )
        assert turn.judgement == chosen[0].judgement
    assert len(candidates) == script.candidates + any(one.revision for one in candidates)


@settings(max_examples=80, deadline=None)
@given(SCRIPTS, PLANS, st.booleans(), st.data())
def test_a_dialogue_with_a_seed_resumes_anywhere_and_what_the_seed_has_is_not_asked_for(
    script: Script, plan: DialoguePlan, has_goal: bool, pick: st.DataObject
) -> None:
    script = replace(script, opens=False, may_end_after=None)  # refused together with seeds
    taken: list[Any] = []
    asked: list[Step] = []
    for state, step, outcome in played(script, State.of(plan, has_goal=has_goal), pick):
        last = max((n for n, one in enumerate(taken) if isinstance(one, Committed)), default=-1)
        resumed = fold(State.of(plan, state.turns, has_goal=has_goal), map(reread, taken[last + 1 :]))
        assert resumed == state
        assert script.next(resumed) == step
        assert script.remaining(state) >= isinstance(step, Call)
        assert step not in asked, "asked for twice"
        asked.append(step)
        taken.append(outcome)
    for turn in (one.turn for one in taken if isinstance(one, Committed)):
        seed = plan.given[turn.index] if turn.index < len(plan.given) else None
        steps = [step for step in asked if isinstance(step, Ask | Answer | CallTools | Compare)]
        steps = [step for step in steps if step.turn == turn.index]
        answers = [step for step in steps if isinstance(step, Answer)]
        if seed is not None and plan.from_seed is not FromSeed.TRANSLATE:
            assert turn.user == seed.user
            assert not any(isinstance(step, Ask) for step in steps)
        if seed is None or not seed.assistant:
            assert turn.details.candidates
        else:
            assert turn.details.candidates == ()
            assert all(isinstance(step, Ask | Answer) for step in steps)
            assert not any(step.candidate or step.review or step.offered for step in answers)
            assert turn.details.origin in (Origin.SEED, Origin.TRANSLATED)
        if turn.details.origin is Origin.SEED:
            assert (seed, turn.judgement) == (Exchange(turn.user, turn.assistant), None)
            assert not steps
            assert not any(isinstance(step, Judge) and step.subject == turn.index for step in asked)


@settings(max_examples=50, deadline=None)
@given(
    *(SCRIPTS, st.lists(st.booleans(), min_size=1, max_size=4), st.integers(0, 2)),
    *(st.booleans(), st.booleans(), st.data()),
)
def test_a_finished_dialogue_is_given_the_verdicts_it_lacks_and_no_more(
    script: Script, judged: list[bool], of_seed: int, whole: bool, has_goal: bool, pick: st.DataObject
) -> None:
    seed = TurnDetails(origin=Origin.SEED)
    turns = (
        *(Turn(n, "q", "a", details=seed) for n in range(of_seed)),
        *(Turn(n, "q", "a", GOOD if has else None) for n, has in enumerate(judged, of_seed)),
    )
    goal = GoalVerdict(True) if whole else None
    state = State(
        len(turns), turns, review=2, judgement=GOOD if whole else None, has_goal=has_goal, goal=goal
    )
    lacking: list[int | None] = []
    if script.judges_turns:
        lacking = [n for n, has in enumerate(judged, of_seed) if not has]
    elif script.judges_whole and not whole:
        lacking = [None]
    if script.judges_goal and has_goal and not whole:
        lacking.append(GOAL)
    taken: list[Any] = []
    steps: list[Step] = []
    for now, step, outcome in played(script, state, pick):
        assert script.next(fold(state, map(reread, taken))) == step
        assert script.remaining(now) == len(lacking) - len(steps) or isinstance(step, Amend)
        steps.append(step)
        taken.append(outcome)
    assert steps[:-1] == [Judge(subject, 2) for subject in lacking]
    amend = steps[-1]
    assert isinstance(amend, Amend)
    assert set(amend.judgements) == {v.subject for v in taken if isinstance(v, Judged)}
    assert len(amend.judgements) + (amend.goal is not None) + len(amend.unjudged) == len(lacking)


def steps_of(script: Script, n_turns: int, *outcomes: Outcome) -> list[Step]:
    """Return the steps named while these outcomes come, commits taken for granted."""
    state, steps, left = State(n_turns), [], list(outcomes)
    while left:
        steps.append(step := script.next(state))
        state = state.after(Committed(step.turn) if isinstance(step, Commit) else left.pop(0))
    return [*steps, script.next(state)]


ASKED, ANSWERED = Asked("Why?"), Answered("Because.")


def test_a_turn_is_asked_answered_judged_and_committed() -> None:
    script = Script(4, judges_turns=True)
    assert steps_of(script, 1, ASKED, ANSWERED, Judged(0, GOOD)) == [
        Ask(0),
        Answer(0, 0, "Why?"),
        Judge(0),
        Commit(Turn(0, "Why?", "Because.", GOOD), final=True),
    ]
    assert steps_of(Script(4), 2, ASKED, ANSWERED, ASKED)[2:4] == [
        Commit(Turn(0, "Why?", "Because."), final=False),
        Ask(1),
    ]


def test_what_a_seed_has_takes_no_call() -> None:
    exchanges = [Exchange("q0", "a0"), Exchange("q1")]
    script = Script(4, judges_turns=True)

    def steps(from_seed: FromSeed) -> list[Step]:
        state, found = State.of(plan_of(1, from_seed, exchanges)), list[Step]()
        while not isinstance(step := script.next(state), End):
            found.append(step)
            outcomes: dict[type[Step], Any] = {Ask: ASKED, Answer: ANSWERED, Judge: Judged(state.index, GOOD)}
            state = state.after(Committed(step.turn) if isinstance(step, Commit) else outcomes[type(step)])
        return found

    first = Turn(0, "q0", "a0", details=TurnDetails(origin=Origin.SEED))
    assert steps(FromSeed.CONTINUE) == [
        Commit(first, final=False),
        Answer(1, 0, "q1"),
        Judge(1),
        Commit(Turn(1, "q1", "Because.", GOOD), final=True),
    ]
    assert [type(step) for step in steps(FromSeed.ANSWER)] == [Answer, Judge, Commit] * 2
    assert [type(step) for step in steps(FromSeed.TRANSLATE)] == [Ask, Answer, Judge, Commit] * 2
    left = [script.remaining(State.of(plan_of(1, one, exchanges))) for one in FromSeed]
    assert left == [2, 4, 6]


CHOSEN: list[type[Step]] = [Answer, Answer, Compare, Answer, Judge]


@pytest.mark.parametrize(
    ("from_seed", "calls", "candidates"),
    [
        (FromSeed.CONTINUE, [[], CHOSEN], [0, 3]),
        (FromSeed.ANSWER, [CHOSEN, CHOSEN], [3, 3]),
        (FromSeed.TRANSLATE, [[Ask, Answer, Judge], [Ask, *CHOSEN]], [0, 3]),
    ],
)
def test_what_a_seed_has_gets_neither_several_answers_nor_another_try(
    from_seed: FromSeed, calls: list[list[type[Step]]], candidates: list[int]
) -> None:
    plan = plan_of(1, from_seed, [Exchange("q0", "a0"), Exchange("q1")])
    script, state = Script(4, judges_turns=True, candidates=2, revise=6.0), State.of(plan)
    poor = Judgement(3, ("clear",), "Say more.")
    found: list[list[type[Step]]] = [[], []]
    while not isinstance(step := script.next(state), End):
        match step:
            case Compare():
                outcome: Any = Compared(step.turn, dict.fromkeys(step.candidates, poor))
            case Judge():
                outcome = Judged(step.subject, poor, step.candidate)
            case Answer():
                outcome = Answered("Because.", candidate=step.candidate, source=AnswerSource("m"))
            case _:
                outcome = Committed(step.turn) if isinstance(step, Commit) else ASKED
        if not isinstance(step, Commit):
            found[state.index].append(type(step))
        state = state.after(of_turn(state, outcome))
    assert found == calls
    assert [len(turn.details.candidates) for turn in state.turns] == candidates


def test_the_whole_conversation_is_judged_once_before_the_last_commit() -> None:
    script = Script(4, judges_whole=True)
    steps = steps_of(script, 2, ASKED, ANSWERED, ASKED, ANSWERED, Judged(None, GOOD))
    assert steps[-2:] == [Judge(None), Commit(Turn(1, "Why?", "Because."), final=True, judgement=GOOD)]
    assert sum(isinstance(step, Judge) for step in steps) == 1


@pytest.mark.parametrize("reason", DropReason)
def test_a_judge_that_fails_never_costs_the_dialogue(reason: DropReason) -> None:
    slip = Judge(0).failure(reason, "no verdict")
    steps = steps_of(Script(4, judges_turns=True), 1, ASKED, ANSWERED, slip)
    assert steps[-1] == Commit(
        Turn(0, "Why?", "Because."), final=True, unjudged=(Unjudged(0, reason, "no verdict"),)
    )


@pytest.mark.parametrize("reason", DropReason)
def test_a_question_or_answer_that_fails_does(reason: DropReason) -> None:
    assert steps_of(Script(4), 1, Ask(0).failure(reason, "x"))[-1] == Dropped(reason, "x")
    failed = Answer(0, 0, "Why?").failure(reason, "x")
    assert steps_of(Script(4), 1, ASKED, failed)[-1] == Dropped(reason, "x")


def test_questions_that_were_asked_before_are_enough_at_some_point() -> None:
    refused = QuestionRejected("Why?", Rejection.ASKED_BEFORE, 0.9, "why")
    steps = steps_of(Script(2), 1, refused, refused)
    assert steps[:2] == [Ask(0), Ask(0, (refused,), last=True)]
    end = steps[-1]
    assert isinstance(end, Dropped)
    assert end.reason is DropReason.DEDUP_EXHAUSTED
    assert "turn 1: 2 questions in a row had been asked before, last 'Why?', which is 90%" in end.detail


def test_the_rounds_of_tools_are_steps_of_their_own() -> None:
    results = ToolResults((EVENT,))
    steps = steps_of(Script(1, tool_rounds=1), 1, ASKED, CALLED, results, ANSWERED)
    assert steps[1] == Answer(0, 0, "Why?", offered=True)
    assert steps[2] == CallTools(0, 0, CALLED)
    assert isinstance(steps[3], Answer)
    assert not steps[3].offered
    assert [one.results for one in steps[3].rounds] == [results]


@settings(max_examples=60, deadline=None)
@given(SCRIPTS, st.data())
def test_each_round_has_a_result_for_each_of_its_calls(script: Script, pick: st.DataObject) -> None:
    for state, step, _ in played(replace(script, tool_rounds=2), State(1), pick):
        for answer in state.progress.answers:
            for one in answer.rounds:
                assert len(one.results.events) == len(one.called.message["tool_calls"])
            assert answer.results is None or answer.called is not None
        if isinstance(step, CallTools):
            assert step.answered == state.progress.candidate(step.candidate).results


def test_calls_of_one_message_may_be_answered_one_after_the_other() -> None:
    message = {**CALLED.message, "tool_calls": [{"id": "a"}, {"id": "b"}]}
    called, part = replace(CALLED, message=message), ToolResults((EVENT,))
    steps = steps_of(Script(1, tool_rounds=1), 1, ASKED, called, part, part, ANSWERED)
    assert steps[2:4] == [CallTools(0, 0, called), CallTools(0, 0, called, answered=part)]
    assert isinstance(steps[4], Answer)
    assert [one.results.events for one in steps[4].rounds] == [(EVENT, EVENT)]


def test_what_is_left_counts_the_calls_that_nothing_repeats() -> None:
    script = Script(4, judges_turns=True)
    state = State(2)
    turn = Turn(0, "Why?", "Because.", GOOD)
    outcomes: list[Any] = [ASKED, ANSWERED, Judged(0, GOOD), Committed(turn), ASKED]
    left = [script.remaining(fold(state, outcomes[:n])) for n in range(len(outcomes) + 1)]
    assert left == [6, 5, 4, 3, 3, 2]
    assert Script(4, judges_whole=True).remaining(State(2)) == 5


def given_answers(*scores: int) -> list[Outcome]:
    """Return a question, an answer for each score, and the judge's comparison of them."""
    answers = [Answered(f"Answer {n}.", candidate=n, source=AnswerSource("m")) for n in range(len(scores))]
    verdicts = {n: Judgement(score, ("clear",), "Say more.") for n, score in enumerate(scores)}
    return [ASKED, *answers, Compared(0, verdicts)]


@pytest.mark.parametrize(("scores", "best"), [((3, 8, 8), 1), ((9, 2, 8), 0), ((0, 0), 0), ((1, 2, 3), 2)])
@pytest.mark.parametrize("judges_turns", [True, False])
def test_of_several_answers_the_best_one_stands(
    scores: tuple[int, ...], best: int, judges_turns: bool
) -> None:
    script = Script(4, judges_turns=judges_turns, candidates=len(scores))
    *steps, commit = steps_of(script, 1, *given_answers(*scores))
    assert steps == [
        Ask(0),
        *(Answer(0, 0, "Why?", candidate=n) for n in range(len(scores))),
        Compare(0, tuple(range(len(scores)))),
    ]
    assert isinstance(commit, Commit)
    assert (commit.turn.assistant, commit.unjudged) == (f"Answer {best}.", ())
    assert [one.chosen for one in commit.turn.details.candidates] == [n == best for n in range(len(scores))]
    assert [one.judgement.score for one in commit.turn.details.candidates if one.judgement] == list(scores)


@pytest.mark.parametrize("judges_turns", [True, False])
def test_without_a_comparison_the_first_answer_stands_unjudged(judges_turns: bool) -> None:
    script = Script(4, judges_turns=judges_turns, candidates=2, revise=9.0 if judges_turns else None)
    slip = Compare(0, (0, 1)).failure(DropReason.INVALID_OUTPUT, "no verdicts")
    commit = steps_of(script, 1, *given_answers(1, 2)[:-1], slip)[-1]
    assert isinstance(commit, Commit)
    assert (commit.turn.assistant, commit.turn.judgement) == ("Answer 0.", None)
    assert [one.judgement for one in commit.turn.details.candidates] == [None, None]
    expected = (Unjudged(0, DropReason.INVALID_OUTPUT, "no verdicts"),) if judges_turns else ()
    assert commit.unjudged == expected


def test_an_answer_that_cannot_be_had_costs_the_dialogue_only_when_there_is_no_other() -> None:
    script = Script(4, judges_turns=True, candidates=3)
    gone = [Answer(0, 0, "Why?", candidate=n).failure(DropReason.REFUSED, f"no {n}") for n in range(3)]
    second = Answered("Two.", candidate=1, source=AnswerSource("m"))
    spoilt = AnswerRejected(2)
    steps = steps_of(script, 1, ASKED, gone[0], second, spoilt, spoilt, Judged(0, GOOD, 1))
    assert steps[-2:] == [
        Judge(0, candidate=1),
        Commit(Turn(0, "Why?", "Two.", GOOD, steps[-1].turn.details), final=True),  # type: ignore[union-attr]
    ]
    end = steps_of(script, 1, ASKED, *gone)[-1]
    assert end == Dropped(DropReason.REFUSED, "no 0")
    whole = Script(4, judges_whole=True, candidates=2)
    state = fold(State(1), [ASKED, gone[0]])
    assert whole.remaining(state) == 3
    assert whole.remaining(state.after(second)) == 1, "nothing to compare it with"


REVISED = Answered("Better.", candidate=1, source=AnswerSource("m", 0.5, revision=True))


@pytest.mark.parametrize(
    ("outcome", "answer", "score"),
    [
        (Judged(0, Judgement(8, ("clear",)), 1), "Better.", 8),
        (Judged(0, Judgement(4, ("clear",)), 1), "Answer 0.", 4),
        (Judged(0, Judgement(1, ("clear",)), 1), "Answer 0.", 4),
        (Unjudged(0, DropReason.INVALID_OUTPUT, "x", 1), "Answer 0.", 4),
    ],
)
def test_a_poor_answer_gets_another_try_and_the_better_one_stands(
    outcome: Outcome, answer: str, score: int
) -> None:
    script = Script(4, judges_turns=True, revise=6.0)
    first = Answered("Answer 0.", source=AnswerSource("m"))
    poor = Judgement(4, ("clear",), "Say more.")
    steps = steps_of(script, 1, ASKED, first, Judged(0, poor), REVISED, outcome)
    assert steps[3:5] == [
        Answer(0, 0, "Why?", candidate=1, review=Review(first, (), poor)),
        Judge(0, candidate=1),
    ]
    commit = steps[-1]
    assert isinstance(commit, Commit)
    assert (commit.turn.assistant, commit.unjudged) == (answer, ())
    assert commit.turn.judgement is not None
    assert commit.turn.judgement.score == score
    assert [one.revision for one in commit.turn.details.candidates] == [False, True]


def test_a_good_answer_is_not_revised_nor_one_without_a_verdict_and_a_revision_that_fails_costs_nothing() -> (
    None
):
    script = Script(4, judges_turns=True, revise=6.0)
    first = Answered("Answer 0.", source=AnswerSource("m"))
    for verdict in (Judged(0, Judgement(6, ("clear",))), Judge(0).failure(DropReason.REFUSED, "x")):
        assert isinstance(steps_of(script, 1, ASKED, first, verdict)[-1], Commit)
    poor = Judged(0, Judgement(4, ("clear",), "Say more."))
    for failure in (Failed(DropReason.REFUSED, "x", 1), Failed(DropReason.INVALID_OUTPUT, "x", 1)):
        commit = steps_of(script, 1, ASKED, first, poor, failure)[-1]
        assert isinstance(commit, Commit)
        assert commit.turn.assistant == "Answer 0."


def test_of_several_answers_the_best_one_is_revised() -> None:
    script = Script(4, judges_turns=True, candidates=2, revise=6.0)
    revised = replace(REVISED, candidate=2)
    steps = steps_of(script, 1, *given_answers(3, 5), revised, Judged(0, GOOD, 2))
    assert isinstance(steps[4], Answer)
    assert steps[4].review is not None
    assert steps[4].review.answered.answer == "Answer 1."
    assert isinstance(steps[-1], Commit)
    assert [one.chosen for one in steps[-1].turn.details.candidates] == [False, False, True]


@pytest.mark.parametrize(
    ("judge", "expected"),
    [
        ({"mode": "online"}, (True, False)),
        ({"mode": "online", "granularity": "conversation"}, (False, True)),
        ({"mode": "offline"}, (False, False)),
        ({"mode": "off"}, (False, False)),
    ],
)
def test_the_configuration_makes_the_script(judge: dict[str, str], expected: tuple[bool, bool]) -> None:
    config = validate(GenerationConfig, {"judge": judge, "coverage": {"question_dedup_retries": 2}}, "test")
    script = Script.of(config, has_tools=True)
    assert (script.judges_turns, script.judges_whole) == expected
    assert script.question_attempts == 3
    assert script.tool_rounds == config.tools.max_rounds
    assert Script.of(config, has_tools=False).tool_rounds == 0
    assert (script.candidates, script.revise) == (1, None)


def test_the_configuration_says_who_opens_and_who_ends() -> None:
    conversation = {"opens": "assistant", "ends": "user", "goals": [{"text": "wants a refund"}]}
    config = validate(GenerationConfig, {"run": {"min_turns": 3}, "conversation": conversation}, "test")
    script = Script.of(config, has_tools=False)
    assert (script.opens, script.may_end_after, script.judges_goal) == (True, 3, True)
    usual = Script.of(GenerationConfig(), has_tools=False)
    assert (usual.opens, usual.may_end_after, usual.judges_goal) == (False, None, False)
    whole = validate(
        GenerationConfig, {"conversation": conversation, "judge": {"granularity": "conversation"}}, "test"
    )
    assert not Script.of(whole, has_tools=False).judges_goal  # the verdict on the whole says it


def test_the_user_ends_the_conversation_before_another_turn() -> None:
    script = Script(4, judges_turns=True, may_end_after=1, judges_goal=True)
    met = GoalVerdict(True, "It was paid.")
    state = State(3, has_goal=True)
    outcomes: list[Any] = [ASKED, ANSWERED, Judged(0, GOOD)]
    turn = Turn(0, "Why?", "Because.", GOOD)
    outcomes += [Committed(turn), UserLeft(), GoalJudged(met), Finished()]
    states = [fold(state, outcomes[:n]) for n in range(len(outcomes) + 1)]
    assert [script.next(one) for one in states] == [
        Ask(0),
        Answer(0, 0, "Why?"),
        Judge(0),
        Commit(turn, final=False),
        Ask(1, may_end=True),
        Judge(GOAL),
        Finish(Ending.USER, goal=met),
        Done(),
    ]
    assert [script.remaining(one) for one in states] == [10, 9, 8, 7, 7, 1, 0, 0]


def test_the_assistant_opens_before_the_first_turn_alone() -> None:
    script = Script(4, opens=True)
    opened = Opened("Welcome.", "Hm.")
    steps = steps_of(script, 2, opened, ASKED, ANSWERED, ASKED)
    details = TurnDetails(opening="Welcome.", opening_reasoning="Hm.")
    first = Turn(0, "Why?", "Because.", details=details)
    assert steps[:4] == [Open(), Ask(0), Answer(0, 0, "Why?"), Commit(first, final=False)]
    assert steps[4] == Ask(1)
    assert steps_of(script, 2, Open().failure(DropReason.REFUSED, "x"))[-1] == Dropped(
        DropReason.REFUSED, "x"
    )


def test_an_outcome_of_a_later_version_is_named() -> None:
    with pytest.raises(ValueError, match="'revised'; a later version"):
        outcome_from("revised", {})
