"""The script of a dialogue: what it asks for next, after any outcomes, replayed or not."""

from __future__ import annotations

from collections.abc import Iterator
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
    Asked,
    Committed,
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
    Done,
    Dropped,
    End,
    Finish,
    Judge,
    Open,
    Step,
)
from dlgforge_core.dialogue import (
    DropReason,
    Ending,
    Evidence,
    GoalVerdict,
    Judgement,
    Role,
    ToolEvent,
    Turn,
    TurnDetails,
)

EVIDENCE = Evidence("c1", "bread.md", Role.ASSISTANT, score=0.5, cited=True)
EVENT = ToolEvent("search", {"query": None}, result="> Bread", call_id="a")
CALLED = ToolsCalled({"role": "assistant", "content": None, "tool_calls": []}, {"a": "bad JSON"}, "Hm.")
GOOD = Judgement(8, ("clear",), "fine")

SCRIPTS = st.builds(
    Script,
    question_attempts=st.integers(1, 3),
    tool_rounds=st.integers(0, 2),
    judges_turns=st.booleans(),
    judges_whole=st.booleans(),
    opens=st.booleans(),
    may_end_after=st.one_of(st.none(), st.integers(1, 3)),
    judges_goal=st.booleans(),
).map(lambda s: replace(s, judges_whole=s.judges_whole and not s.judges_turns and not s.judges_goal))

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
            return ToolResults((EVENT,), (("c1", 0.25),))
        case Ask():
            refused = QuestionRejected("Why?", pick.draw(st.sampled_from(Rejection)), 0.9, "why")
            possible = [Asked("Why?"), refused, *([UserLeft()] if step.may_end else [])]
        case Answer():
            details = TurnDetails((EVIDENCE,), (EVENT,), "Hm.", True)
            possible = [Answered("Because.", details), AnswerRejected(), *([CALLED] if step.offered else [])]
        case Judge(subject):
            verdict = GoalVerdict(pick.draw(st.booleans()), "so")
            possible = [GoalJudged(verdict) if subject == GOAL else Judged(subject, GOOD)]
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
        outcome = outcomes_of(step, pick)
        yield state, step, outcome
        state = state.after(outcome)
    pytest.fail("the script does not end")


def reread(outcome: Any) -> Any:
    """Return the outcome as it is after it was recorded and read."""
    if isinstance(outcome, Committed | Finished | Amended):
        return outcome
    return outcome_from(outcome.kind, orjson.loads(orjson.dumps(outcome.to_json())))


@settings(max_examples=100, deadline=None)
@given(SCRIPTS, st.integers(1, 4), st.booleans(), st.data())
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
        assert verdicts == [*(made if script.judges_turns else []), *at_end]
    # At most: all attempts at a question, at an answer with its tools and one without, and the verdicts.
    answer = 2 * (2 * script.tool_rounds + 2)
    assert len(taken) <= n_turns * (script.question_attempts + answer + 2) + 5


@settings(max_examples=50, deadline=None)
@given(SCRIPTS, st.lists(st.booleans(), min_size=1, max_size=4), st.booleans(), st.booleans(), st.data())
def test_a_finished_dialogue_is_given_the_verdicts_it_lacks_and_no_more(
    script: Script, judged: list[bool], whole: bool, has_goal: bool, pick: st.DataObject
) -> None:
    turns = tuple(Turn(n, "q", "a", GOOD if has else None) for n, has in enumerate(judged))
    goal = GoalVerdict(True) if whole else None
    state = State(
        len(turns), turns, review=2, judgement=GOOD if whole else None, has_goal=has_goal, goal=goal
    )
    lacking: list[int | None] = []
    if script.judges_turns:
        lacking = [n for n, has in enumerate(judged) if not has]
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


def test_what_is_left_counts_the_calls_that_nothing_repeats() -> None:
    script = Script(4, judges_turns=True)
    state = State(2)
    turn = Turn(0, "Why?", "Because.", GOOD)
    outcomes: list[Any] = [ASKED, ANSWERED, Judged(0, GOOD), Committed(turn), ASKED]
    left = [script.remaining(fold(state, outcomes[:n])) for n in range(len(outcomes) + 1)]
    assert left == [6, 5, 4, 3, 3, 2]
    assert Script(4, judges_whole=True).remaining(State(2)) == 5


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
