"""One dialogue as a reader sees it: all that was planned, said and thought of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dlgforge_core.database.connection import Connection
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.judging.results import verdicts_of
from dlgforge_core.judging.store import latest_judging
from dlgforge_core.knowledge.texts import chunk_texts
from dlgforge_core.review.ended import judge_while_generating
from dlgforge_core.usage import RoleUsage, total_usage
from dlgforge_core.verdicts import JudgeVerdict, mean_scores

_DIALOGUE = """
SELECT d.plan, d.judgement, g.config -> 'models', (
    SELECT jsonb_agg(jsonb_build_array(t.turn_index, t.user_text, t.assistant_text, t.judgement, t.details)
                     ORDER BY t.turn_index)
    FROM turns t WHERE t.dialogue_id = d.dialogue_id), d.ended_by, d.goal_verdict, d.usage,
       d.status, d.drop_reason, d.drop_detail, d.shortcomings, d.attempt, p.fingerprint, g.dataset, (
    SELECT jsonb_build_array(u.reason, u.detail) FROM unjudged u WHERE u.dialogue_id = d.dialogue_id)
FROM dialogues d JOIN plans p USING (plan_id) LEFT JOIN LATERAL (
    SELECT * FROM run_plans rp JOIN generation_runs USING (run_id) WHERE rp.plan_id = p.plan_id
    ORDER BY updated_at DESC LIMIT 1
) g ON true
WHERE d.dialogue_id = %(id)s
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """A dialogue, how it ended, and the verdicts on it: those that count, and with offline judges others.

    `texts` are those of its passages, by chunk.
    """

    dialogue: Dialogue
    status: str
    drop_reason: str
    drop_detail: str
    shortcomings: Mapping[str, str]
    attempt: int
    verdicts: Sequence[JudgeVerdict]
    texts: Mapping[str, str]
    unjudged: str = ""

    def of_turn(self, index: int | None) -> list[JudgeVerdict]:
        """Return the verdicts on a turn; with None those on the whole."""
        return [one for one in self.verdicts if one.turn_index == index]

    @property
    def used(self) -> RoleUsage:
        """What all calls for it have used."""
        return total_usage(self.dialogue.usage.values())

    @property
    def mean_scores(self) -> dict[str, float]:
        """The mean score of each judge."""
        return mean_scores(self.verdicts)


def read_dialogue(connection: Connection, dialogue_id: str) -> Reading | None:
    """Return a dialogue, finished or not; None when there is no such."""
    row = connection.execute(_DIALOGUE, {"id": dialogue_id}).fetchone()
    if row is None:
        return None
    dialogue = Dialogue.from_row(row[:7])
    status, drop_reason, drop_detail, shortcomings, attempt, fingerprint, dataset, unjudged = row[7:]
    judges = latest_judging(connection, dataset or "", fingerprint)
    offline = verdicts_of(connection, [dialogue_id], judges) if judges else {}
    chunks = {item.chunk_id for turn in dialogue.turns for item in turn.details.evidence}
    return Reading(
        dialogue=dialogue,
        status=status,
        drop_reason=drop_reason or "",
        drop_detail=drop_detail or "",
        shortcomings=shortcomings or {},
        attempt=attempt,
        verdicts=[*_while_generating(dialogue), *offline.get(dialogue_id, ())],
        texts=chunk_texts(connection, dataset or "", chunks),
        unjudged=f"{unjudged[0]}: {unjudged[1]}" if unjudged else "",
    )


def _while_generating(dialogue: Dialogue) -> Iterator[JudgeVerdict]:
    judge = judge_while_generating(dialogue)
    for turn in dialogue.turns:
        if turn.judgement is not None:
            yield JudgeVerdict(judge, turn.index, turn.judgement)
    if dialogue.judgement is not None:
        yield JudgeVerdict(judge, None, dialogue.judgement)
