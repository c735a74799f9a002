"""Filters of the list: what a query string asks for, and the SQL of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any
from urllib.parse import urlencode

from dlgforge_core.common.hints import hint
from dlgforge_core.errors import ConfigError
from dlgforge_core.review.search_text import Term, folded, terms_of
from dlgforge_core.verdicts import MAX_SCORE

STATUSES = {"done": "accepted", "unaccepted": "not accepted", "dropped": "dropped"}
"""How dialogues end, and what a reader is told of it."""
MARKED = {
    "yes": "marked",
    "no": "not marked",
    "good": "marked good",
    "bad": "marked bad",
    "mine": "marked by me",
    "not-mine": "not marked by me",
}
GOALS = {"met": "met", "missed": "missed"}
ORDERS = {
    "newest": "newest first",
    "lowest": "lowest score first",
    "highest": "highest score first",
    "dearest": "highest cost first",
}
REASON, ATTRIBUTE, TOOL = "reason", "attribute", "tool"
"""The kinds of facets."""

_OF_DATASET = (
    "r.plan_id IN (SELECT rp.plan_id FROM run_plans rp JOIN generation_runs g USING (run_id) "
    "WHERE g.dataset = %(dataset)s)"
)
_OF_RUN = (
    "EXISTS (SELECT FROM run_plans rp WHERE rp.run_id = %(run)s AND rp.plan_id = r.plan_id "
    "AND r.ordinal < rp.n_dialogues)"
)
_MARKED_BY = "EXISTS (SELECT FROM review_marks m WHERE m.dialogue_id = r.dialogue_id{which})"
_MARKED_SQL = {
    "yes": _MARKED_BY.format(which=""),
    "no": f"NOT {_MARKED_BY.format(which='')}",
    "good": _MARKED_BY.format(which=" AND m.verdict = 'good'"),
    "bad": _MARKED_BY.format(which=" AND m.verdict = 'bad'"),
    "mine": _MARKED_BY.format(which=" AND m.reviewer = %(reviewer)s"),
    "not-mine": f"NOT {_MARKED_BY.format(which=' AND m.reviewer = %(reviewer)s')}",
}


@dataclass(frozen=True, slots=True)
class Filters:
    """What the list shows; "" and None: whatever. The names are those of the query string."""

    q: str = ""
    dataset: str | None = None
    run: str = ""
    language: str = ""
    topic: str = ""
    status: str = ""
    dropped: str = ""
    min: float | None = None
    max: float | None = None
    reason: str = ""
    attribute: str = ""
    tool: str = ""
    ended: str = ""
    goal: str = ""
    marked: str = ""
    order: str = "newest"

    @classmethod
    def of_query(cls, query: Mapping[str, str]) -> Filters:
        """Return the filters of a query string, other parameters left aside. Raises ConfigError."""
        given = ((one.name, query.get(one.name, "").strip()) for one in fields(cls))
        filled: dict[str, Any] = {name: text for name, text in given if text}
        for name in ("min", "max"):
            if name in filled:
                filled[name] = _score(name, filled[name])
        for name, known in _KNOWN.items():
            if name in filled and filled[name] not in known:
                raise ConfigError(
                    f"{name} = {filled[name]!r}: {hint(filled[name], list(known), 'choose from')}"
                )
        if filled.get("dataset") == DEFAULT_DATASET:
            filled["dataset"] = ""
        return cls(**filled)

    @property
    def active(self) -> dict[str, str]:
        """Those that are set, as of a query string."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["dataset"] = DEFAULT_DATASET if self.dataset == "" else self.dataset
        if self.order == "newest":
            values["order"] = ""
        return {
            name: f"{value:g}" if isinstance(value, float) else value
            for name, value in values.items()
            if value not in ("", None)
        }

    @property
    def narrowing(self) -> dict[str, str]:
        """Those that leave something out."""
        return {name: value for name, value in self.active.items() if name != "order"}

    def query(self, **more: str) -> str:
        """Return the query string of these filters and `more`."""
        return urlencode({**self.active, **more})

    def without(self, name: str) -> Filters:
        """Return the filters but for one."""
        unset: dict[str, Any] = {one.name: one.default for one in fields(self) if one.name == name}
        return replace(self, **unset)

    def conditions(self, reviewer: str) -> tuple[str, dict[str, Any]]:
        """Return the SQL condition on `review_dialogues r`, and its parameters."""
        found = list(self._conditions(reviewer))
        sql = " AND ".join(one for one, _ in found) or "true"
        return sql, {name: value for _, values in found for name, value in values.items()}

    def _conditions(self, reviewer: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if self.dataset is not None:
            yield _OF_DATASET, {"dataset": self.dataset}
        if self.run:
            yield _OF_RUN, {"run": self.run}
        for name, column in _EQUAL.items():
            if value := getattr(self, name):
                yield f"r.{column} = %({name})s", {name: value}
        if words := folded(self.topic):
            yield "r.topic LIKE %(topic)s", {"topic": f"%{words}%"}
        if self.min is not None:
            # As the indices have it.
            yield "coalesce(r.score, -1) >= %(min)s", {"min": self.min}
        if self.max is not None:
            yield "coalesce(r.score, 11) <= %(max)s", {"max": self.max}
        facets = [
            f"{kind}:{value}"
            for kind, value in ((REASON, self.reason), (ATTRIBUTE, self.attribute), (TOOL, self.tool))
            if value
        ]
        if facets:
            yield "r.facets @> %(facets)s::text[]", {"facets": facets}
        if self.goal:
            yield "r.goal_met = %(goal_met)s", {"goal_met": self.goal == "met"}
        if self.marked:
            yield _MARKED_SQL[self.marked], {"reviewer": reviewer}

    def search(self) -> Search | None:
        """Return what `q` searches; None where it searches nothing."""
        if not (terms := terms_of(self.q)):
            return None
        values = [f"'{term.words}':*" if term.prefix else term.words for term in terms]
        wanted = [(term, f"%(q{i})s") for i, term in enumerate(terms)]
        return Search(
            exact=" && ".join(_query(term, parameter, "phraseto_tsquery") for term, parameter in wanted),
            words=" && ".join(
                _query(term, parameter, "plainto_tsquery")
                for term, parameter in wanted
                if not (term.without and " " in term.words)
            )
            if any(not term.without for term in terms)
            else "",
            parameters={f"q{i}": value for i, value in enumerate(values)},
        )


@dataclass(frozen=True, slots=True)
class Search:
    """A search in SQL: the `exact` tsquery, and that of its `words` alone, in any order.

    The index answers the latter by itself; of phrases it knows the words. `words` is "" where all are
    excluded.
    """

    exact: str
    words: str
    parameters: Mapping[str, Any]


DEFAULT_DATASET = "-"
"""How a query string names the dataset that has no name."""
_EQUAL = {"language": "language", "status": "status", "dropped": "drop_reason", "ended": "ended_by"}
_KNOWN: dict[str, Mapping[str, str]] = {"status": STATUSES, "goal": GOALS, "marked": MARKED, "order": ORDERS}


def _query(term: Term, parameter: str, phrase: str) -> str:
    function = "to_tsquery" if term.prefix else phrase
    return f"{'!!' if term.without else ''}{function}('simple', {parameter})"


def _score(name: str, text: str) -> float:
    try:
        score = float(text.replace(",", "."))
    except ValueError:
        score = float("nan")
    if not 0 <= score <= MAX_SCORE:
        raise ConfigError(f"{name} = {text!r}: give a score from 0 to {MAX_SCORE}")
    return score
