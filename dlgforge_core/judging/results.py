"""What offline judges said: dialogues with their verdicts, the lowest scores, and how far judges agree."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import psycopg

from dlgforge_core.dialogue import Dialogue, DialoguePlan
from dlgforge_core.judging.agreement import Agreement, JudgeScores, agreement_of, merged_score
from dlgforge_core.judging.judges import WHOLE
from dlgforge_core.judging.rating_agreement import DimensionFigures, dimension_figures
from dlgforge_core.judging.store import fingerprint_of, judgement_of, latest_judging
from dlgforge_core.store.results import Scope, stream_dialogues
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.verdicts import GoalVerdict, Judgement, JudgeVerdict

_BATCH = 200

_VERDICTS = """
SELECT dialogue_id, turn_index, judge_key, score, reasons, comment, ratings FROM judgements
WHERE dialogue_id = ANY(%(ids)s) AND judge_key = ANY(%(keys)s)
"""

_LOWEST = """
WITH wanted AS ({wanted}),
lowest AS (
    SELECT j.dialogue_id, j.turn_index, avg(j.score) AS mean
    FROM wanted JOIN dialogues d USING (plan_id) JOIN judgements j USING (dialogue_id)
    WHERE d.status = 'done' AND d.ordinal < wanted.n_dialogues AND j.judge_key = ANY(%(keys)s)
    GROUP BY 1, 2 ORDER BY mean, 1, 2 LIMIT %(limit)s
)
SELECT l.dialogue_id, l.turn_index, p.language, d.plan, t.user_text, t.assistant_text, (
    SELECT bool_or(o.details @> '{{"off_topic": true}}') FROM turns o WHERE o.dialogue_id = l.dialogue_id
), (
    SELECT jsonb_agg(jsonb_build_array(j.judge_key, j.score, j.reasons, j.comment, j.ratings)
                     ORDER BY array_position(%(keys)s::text[], j.judge_key))
    FROM judgements j WHERE (j.dialogue_id, j.turn_index) = (l.dialogue_id, l.turn_index)
      AND j.judge_key = ANY(%(keys)s))
FROM lowest l JOIN dialogues d USING (dialogue_id) JOIN plans p USING (plan_id)
LEFT JOIN turns t ON t.dialogue_id = l.dialogue_id AND t.turn_index = greatest(l.turn_index, 0)
ORDER BY l.mean, l.dialogue_id, l.turn_index
"""

# One row for each combination of scores; %(keys)s gives the judges' places.
_COMBINATIONS = """
WITH wanted AS ({wanted}),
judged AS (
    SELECT array_agg(array_position(%(keys)s::text[], j.judge_key) * 100 + j.score
                     ORDER BY array_position(%(keys)s::text[], j.judge_key)) AS scores
    FROM wanted JOIN dialogues d USING (plan_id) JOIN judgements j USING (dialogue_id)
    WHERE d.status = 'done' AND d.ordinal < wanted.n_dialogues AND j.judge_key = ANY(%(keys)s)
    GROUP BY j.dialogue_id, j.turn_index
)
SELECT scores, count(*) FROM judged GROUP BY scores
"""

# One row for each combination of ratings in a dimension.
_RATINGS = """
WITH wanted AS ({wanted}),
rated AS (
    SELECT r.key AS dimension, jsonb_agg(jsonb_build_array(j.judge_key, r.value)
                                         ORDER BY array_position(%(keys)s::text[], j.judge_key)) AS ratings
    FROM wanted JOIN dialogues d USING (plan_id) JOIN judgements j USING (dialogue_id),
         jsonb_each(j.ratings -> 'dimensions') AS r
    WHERE d.status = 'done' AND d.ordinal < wanted.n_dialogues AND j.judge_key = ANY(%(keys)s)
    GROUP BY j.dialogue_id, j.turn_index, r.key
)
SELECT dimension, ratings, count(*) FROM rated GROUP BY 1, 2
"""

_DIMENSIONS_OFFLINE = """
WITH wanted AS ({wanted})
SELECT DISTINCT jsonb_object_keys(j.ratings -> 'dimensions')
FROM wanted JOIN dialogues d USING (plan_id) JOIN judgements j USING (dialogue_id)
WHERE d.status = 'done' AND d.ordinal < wanted.n_dialogues AND j.judge_key = ANY(%(keys)s)
"""

_DIMENSIONS_ONLINE = """
WITH wanted AS ({wanted}),
made AS (
    SELECT dialogue_id, judgement FROM wanted JOIN dialogues d USING (plan_id)
    WHERE d.status = 'done' AND d.ordinal < wanted.n_dialogues
)
SELECT jsonb_object_keys(judgement -> 'dimensions') FROM made
UNION
SELECT jsonb_object_keys(t.judgement -> 'dimensions') FROM made JOIN turns t USING (dialogue_id)
"""


@dataclass(frozen=True, slots=True)
class LowScore:
    """Something the judges thought little of, and each one's verdict by judge key.

    `turn_index` is WHOLE for a conversation, of which the first turn is shown. `topic` is empty where the
    document led the dialogue off its seed topic.
    """

    dialogue_id: str
    turn_index: int
    language: str
    topic: str
    user: str
    assistant: str
    verdicts: dict[str, Judgement]


def merged(judgements: Sequence[Judgement]) -> Judgement:
    """Return the verdicts of several judges on one thing as one, in the judges' order.

    Score: the mean, rounded to a whole number, halves up. Reasons: those that at least half of the judges
    name, or, where there is none, those named most often; by votes, then as first named. Comment: the first
    judge's. Of a rubric, ratings: the mean in each dimension, not rounded; question and answer are good
    enough, and the user's goal is met, where more than half of the judges say so. Raises ValueError without
    any verdict.
    """
    if not judgements:
        raise ValueError("there is no verdict to merge")
    votes = Counter(reason for judgement in judgements for reason in dict.fromkeys(judgement.reasons))
    needed = min(len(judgements) / 2, max(votes.values(), default=0))
    reasons = tuple(reason for reason, n in votes.most_common() if n >= needed)
    names = dict.fromkeys(name for judgement in judgements for name in judgement.dimensions)
    return Judgement(
        merged_score([j.score for j in judgements]),
        reasons,
        judgements[0].comment,
        {name: fmean(j.dimensions[name] for j in judgements if name in j.dimensions) for name in names},
        _most([j.question_ok for j in judgements]),
        _most([j.answer_ok for j in judgements]),
        _merged_goal([j.goal for j in judgements if j.goal is not None]),
    )


def _merged_goal(verdicts: Sequence[GoalVerdict]) -> GoalVerdict | None:
    """Return what most say, with the reason of the first who says so."""
    met = _most([verdict.met for verdict in verdicts])
    return next((verdict for verdict in verdicts if verdict.met is met), None)


def _most(opinions: Sequence[bool | None]) -> bool | None:
    given = [opinion for opinion in opinions if opinion is not None]
    return 2 * sum(given) > len(given) if given else None


def with_judgements(
    connection: psycopg.Connection, dialogues: Iterable[Dialogue], judges: Mapping[str, str]
) -> Iterator[Dialogue]:
    """`dialogues` with the merged verdicts of these judges, and of several, each one's.

    `judges` gives their names by key, in their order. Streamed: memory does not grow with the dialogues.

    Verdicts given while generating are left out, so that all verdicts of a dataset are of the same judges.
    A turn that no judge has judged has none. The connection may be the one that the dialogues come by.
    """
    stream = iter(dialogues)
    while batch := list(itertools.islice(stream, _BATCH)):
        found = verdicts_of(connection, [dialogue.plan.dialogue_id for dialogue in batch], judges)
        for dialogue in batch:
            yield _judged(dialogue, found.get(dialogue.plan.dialogue_id, ()), several=len(judges) > 1)


def verdicts_of(
    connection: psycopg.Connection, ids: Sequence[str], judges: Mapping[str, str]
) -> dict[str, list[JudgeVerdict]]:
    """Return what these judges (names by key) say of dialogues, in the judges' order, by dialogue."""
    keys = list(judges)
    position = {key: i for i, key in enumerate(keys)}
    rows = connection.execute(_VERDICTS, {"ids": list(ids), "keys": keys}).fetchall()
    rows.sort(key=lambda row: position[row[2]])
    found: dict[str, list[JudgeVerdict]] = {}
    for dialogue_id, index, key, *columns in rows:
        given = JudgeVerdict(judges[key], None if index == WHOLE else index, judgement_of(*columns))
        found.setdefault(dialogue_id, []).append(given)
    return found


def _judged(dialogue: Dialogue, verdicts: Sequence[JudgeVerdict], *, several: bool) -> Dialogue:
    found: dict[int | None, list[JudgeVerdict]] = {}
    for one in verdicts:
        found.setdefault(one.turn_index, []).append(one)

    def verdict(index: int | None) -> Judgement | None:
        given = found.get(index)
        return merged([one.judgement for one in given]) if given else None

    turns = tuple(replace(turn, judgement=verdict(turn.index)) for turn in dialogue.turns)
    order = [*(turn.index for turn in turns), None]
    return replace(
        dialogue,
        turns=turns,
        judgement=verdict(None),
        # What is seen by what happened is no judge's to say.
        goal=dialogue.goal if dialogue.plan.expects else None,
        by_judge=tuple(one for index in order for one in found.get(index, ())) if several else (),
    )


def judged_dialogues(
    store: RunStore, scope: Scope, *, limit: int | None = None, mixed: bool = False
) -> Iterator[Dialogue]:
    """Yield the finished dialogues of a scope with the verdicts that count, streamed.

    Those of the latest offline judging; where there was none, those given while generating. `limit` and
    `mixed` as in `stream_dialogues`. Raises StoreError.
    """
    with store.connection() as connection:
        judges = latest_judging(connection, store.dataset, fingerprint_of(connection, scope))
        dialogues = stream_dialogues(connection, scope, limit=limit, mixed=mixed)
        yield from with_judgements(connection, dialogues, judges) if judges else dialogues


def lowest_scores(
    connection: psycopg.Connection, scope: Scope, judge_keys: Sequence[str], n: int
) -> list[LowScore]:
    """Return the `n` turns or conversations of a scope with the lowest mean score, the lowest first."""
    values = {**scope.parameters, "keys": list(judge_keys), "limit": n}
    rows = connection.execute(scope.sql(_LOWEST), values).fetchall()
    return [
        LowScore(
            dialogue_id=dialogue_id,
            turn_index=turn_index,
            language=language,
            topic="" if off_topic else DialoguePlan.from_json(plan).topic.topic,
            user=user or "",
            assistant=assistant or "",
            verdicts={key: judgement_of(*columns) for key, *columns in verdicts},
        )
        for dialogue_id, turn_index, language, plan, user, assistant, off_topic, verdicts in rows
    ]


def agreement(connection: psycopg.Connection, scope: Scope, judges: Mapping[str, str]) -> Agreement:
    """Return the agreement of judges (names by key) on the finished dialogues of a scope."""
    keys = list(judges)
    rows = connection.execute(scope.sql(_COMBINATIONS), {**scope.parameters, "keys": keys}).fetchall()
    return agreement_of(list(judges.values()), ((_scores(row[0], len(keys)), row[1]) for row in rows))


def rating_figures(
    connection: psycopg.Connection, scope: Scope, judges: Mapping[str, str]
) -> dict[str, DimensionFigures]:
    """Return what judges (names by key) rated in each dimension of a rubric; empty without one."""
    rows = connection.execute(scope.sql(_RATINGS), {**scope.parameters, "keys": list(judges)}).fetchall()
    return dimension_figures(
        (dimension, [(judges[key], float(value)) for key, value in ratings], count)
        for dimension, ratings, count in rows
    )


def rated_dimensions(store: RunStore, scope: Scope) -> list[str]:
    """Return the dimensions of the verdicts that count, see `judged_dialogues`; empty without a rubric."""
    with store.connection() as connection:
        judges = latest_judging(connection, store.dataset, fingerprint_of(connection, scope))
        statement = _DIMENSIONS_OFFLINE if judges else _DIMENSIONS_ONLINE
        rows = connection.execute(scope.sql(statement), {**scope.parameters, "keys": list(judges)}).fetchall()
    return sorted(row[0] for row in rows)


def _scores(coded: Sequence[int], n_judges: int) -> JudgeScores:
    by_number = dict(divmod(code, 100) for code in coded)  # judges count from 1, as in SQL
    return tuple(by_number.get(number + 1) for number in range(n_judges))
