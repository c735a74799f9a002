"""Checks of a finished set of dialogues: reports with figures and the worst examples.

Nothing here calls a model. `blocking` marks what a dataset must not be made of; the rest is a matter of
taste and of the model, and only warns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dlgforge_core.common.questions import question_key
from dlgforge_core.config import ChecksConfig
from dlgforge_core.quality.collectors import (
    COLLECTORS,
    EXCERPT_CHARS,
    GOALS_MET,
    PASS_RATE,
    CheckReport,
    Collector,
    Finding,
)
from dlgforge_core.quality.findings import Findings
from dlgforge_core.run_outcomes import Outcomes

_REPEATS = "unique_questions"
DROP_RATE = "drop_rate"
# Dialogues that must have ended in a part for its own drop rate to say anything.
_PART_COUNTS_FROM = 4
_DETAIL_CHARS = 400

Asked = tuple[str, int, str]
"""A question of a set: its dialogue's id, the turn from 1, the text."""


@dataclass(frozen=True, slots=True)
class CheckInfo:
    """A check as it is offered."""

    name: str
    description: str
    blocking: bool


CHECKS: tuple[CheckInfo, ...] = (
    CheckInfo("schema", "Every dialogue has its id, language, topic, and turns in order; scores fit.", True),
    CheckInfo("roles_alternate", "User and assistant take turns; the user begins, the assistant ends.", True),
    CheckInfo("no_empty_messages", "Every message has words in it.", True),
    CheckInfo(_REPEATS, "No question is asked twice, wherever in the set.", True),
    CheckInfo(DROP_RATE, "Enough of the planned dialogues were finished.", True),
    CheckInfo("turn_counts", "Every dialogue has as many turns as were planned.", False),
    CheckInfo("no_cut_messages", "Messages do not end in the middle of a sentence.", False),
    CheckInfo(
        "no_leaks", "Nobody repeats instructions or a persona's text, or gives away what it was shown.", False
    ),
    CheckInfo("language", "Messages are in the language that was asked for.", False),
    CheckInfo(PASS_RATE, "Enough of the judge's verdicts are passes.", False),
    CheckInfo(GOALS_MET, "Enough of the users reached their goal.", False),
)


@dataclass(frozen=True, slots=True)
class PartEnds:
    """How the dialogues of one part of a set ended: of a seed batch in one language, say."""

    name: str
    finished: int
    dropped: int

    @property
    def ended(self) -> int:
        """Dialogues that were finished, or dropped."""
        return self.finished + self.dropped

    @property
    def drop_rate(self) -> float:
        """Share of dropped dialogues among those that ended."""
        return self.dropped / self.ended if self.ended else 0.0


def run_checks(
    findings: Iterable[Findings],
    asked: Callable[[], Iterable[Asked]],
    outcomes: Outcomes,
    config: ChecksConfig,
    *,
    parts: Sequence[PartEnds] = (),
    only: Container[str] | None = None,
) -> list[CheckReport]:
    """Check a set, in the order of `CHECKS`, of those named in `only`.

    `findings` are those of all its parts, by the checks that look at dialogues by themselves. `asked` gives
    all questions anew at each call, which is a second time when some repeat; `outcomes` and `parts` tell how
    the plan ended. For `drop_rate` alone neither findings nor questions are read.
    """
    names = [check.name for check in CHECKS if only is None or check.name in only]
    collectors: dict[str, Collector] = {
        name: COLLECTORS[name](config) for name in names if name in COLLECTORS
    }
    for found in findings if collectors else ():
        for name in found.keys() & collectors.keys():
            collectors[name].merge(found[name])
    reports = {name: collector.report() for name, collector in collectors.items()}
    if _REPEATS in names:
        reports[_REPEATS] = _repeated_questions(asked, config)
    if DROP_RATE in names:
        reports[DROP_RATE] = _drop_rate(outcomes, parts, config)
    return [reports[name] for name in names]


def _repeated_questions(asked: Callable[[], Iterable[Asked]], config: ChecksConfig) -> CheckReport:
    """Eight bytes for each question: ten million take 80 MB."""
    keys = np.fromiter((_short_key(question) for _, _, question in asked()), dtype=np.uint64)
    keys.sort()
    again = keys[1:][keys[1:] == keys[:-1]]
    repeated = set(again.tolist())
    found = (
        Finding(dialogue_id, turn, "the question is asked elsewhere too", question[:EXCERPT_CHARS])
        for dialogue_id, turn, question in (asked() if repeated else ())
        if _short_key(question) in repeated
    )
    examples = tuple(itertools.islice(found, config.max_examples))
    figures = {"looked_at": len(keys), "wrong": len(again), "share": round(len(again) / max(len(keys), 1), 4)}
    summary = f"{len(again)} of {len(keys)} questions repeat an earlier one"
    return CheckReport(_REPEATS, not len(again), summary, figures, examples)


def _short_key(question: str) -> int:
    return int.from_bytes(question_key(question)[:8], "little")


def _drop_rate(outcomes: Outcomes, parts: Sequence[PartEnds], config: ChecksConfig) -> CheckReport:
    o, most = outcomes, config.max_drop_rate
    rate = o.dropped / o.ended if o.ended else 0.0
    reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(o.drop_reasons.items()))
    figures: dict[str, int | float] = {
        "planned": o.planned,
        "done": o.done,
        "dropped": o.dropped,
        "unfinished": o.unfinished,
        "drop_rate": round(rate, 4),
        **{f"dropped_{reason}": n for reason, n in sorted(o.drop_reasons.items())},
    }
    text = f"{o.done} of {o.planned} dialogues are done, {o.dropped} were dropped"
    text += f" ({reasons})" if reasons else ""
    if o.unaccepted:
        figures["unaccepted"] = o.unaccepted
        text += f", {o.unaccepted} were not accepted"
    worst = max(parts, key=lambda part: part.drop_rate, default=None)
    if worst is not None and worst.dropped and len(parts) > 1:
        text += f", {worst.dropped} of {worst.ended} in {worst.name}"
        figures["worst_drop_rate"] = round(worst.drop_rate, 4)
    passed = o.done > 0 and rate <= most and not bad_parts(parts, config)
    examples = [
        Finding(one.dialogue_id, 0, f"dropped: {one.reason}", one.detail[:_DETAIL_CHARS])
        for one in o.drop_examples[: config.max_examples]
    ]
    return CheckReport(DROP_RATE, passed, f"{text}; at most {most:.0%} may be dropped", figures, examples)


def bad_parts(parts: Iterable[PartEnds], config: ChecksConfig) -> list[PartEnds]:
    """Return the parts of which too many dialogues were dropped: a hole, if a small one, in a great set.

    A few dialogues tell nothing of their part; they count in the whole set's rate.
    """
    return [
        part for part in parts if part.ended >= _PART_COUNTS_FROM and part.drop_rate > config.max_drop_rate
    ]
