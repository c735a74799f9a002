"""`attributes`: what varies from dialogue to dialogue, in shares of one's own."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from dlgforge_core.common.hints import hint
from dlgforge_core.common.invisible import is_visible
from dlgforge_core.common.yaml_source import bad_character
from dlgforge_core.config.base import ConfigModel, KeyedError

COLUMN_PREFIX = "attribute_"
"""What the names of attributes' columns in datasets begin with."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_MAX_ATTRIBUTES = 20
_MAX_VALUES = 100
_MAX_VALUE_CHARS = 200
_MAX_COMBINATIONS = 20_000
_EXAMPLE = "for example [calm, angry], or with weights {calm: 3, angry: 1}"


def _weights(given: Any) -> Any:
    """Return weights by value; of a list all are alike."""
    if isinstance(given, list | Mapping) and not 0 < len(given) <= _MAX_VALUES:
        raise ValueError(f"it has {len(given)} values; give 1 to {_MAX_VALUES}, {_EXAMPLE}")
    if isinstance(given, list):
        for value in given:
            _check_value(value)
        if twice := sorted({value for value in given if given.count(value) > 1}):
            raise ValueError(
                f"{twice[0]!r} is there more than once; name it once, with a weight: {{{twice[0]}: 2}}"
            )
        given = dict.fromkeys(given, 1.0)
    if not isinstance(given, Mapping):
        return given
    for value in given:
        _check_value(value)
    if all(isinstance(weight, int | float) and weight == 0 for weight in given.values()):
        raise ValueError("all weights are 0, so that nothing could be drawn; give a value a greater one")
    return given


def _check_value(value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"the value {value!r} is not text; put it in quotes: '{value}'")
    if not is_visible(value) or " ".join(value.split()) != value or bad_character(value):
        raise ValueError(f"the value {value!r} must be one line of text, without spaces around it")
    if len(value) > _MAX_VALUE_CHARS:
        raise ValueError(f"the value {value[:40]!r}... is longer than {_MAX_VALUE_CHARS} characters")


def _wanted(given: Any) -> Any:
    """Return lists of values by attribute; a value by itself stands for a list of one."""
    if not isinstance(given, Mapping):
        return given
    if not given:
        raise ValueError("when is empty; name an attribute and its value, for example {tone: angry}")
    return {name: value if isinstance(value, list) else [value] for name, value in given.items()}


Weight = Annotated[float, Field(ge=0.0, le=1e6, allow_inf_nan=False)]
Weights = Annotated[dict[str, Weight], BeforeValidator(_weights)]


class AttributeCaseConfig(ConfigModel):
    """Other weights of an attribute's values, where other attributes have certain values."""

    when: Annotated[dict[str, list[str]], BeforeValidator(_wanted)] = Field(
        description="Values of other attributes, all of which must be there: {tone: angry}, or one of "
        "several, {tone: [angry, sad]}."
    )
    values: Weights = Field(
        description="Weights of the attribute's values in such dialogues; values left out have weight 0. "
        "A list: all alike."
    )


class AttributeConfig(ConfigModel):
    """An attribute: its values, one of which the plan draws for each dialogue."""

    values: Weights = Field(
        description="Weights by value, {calm: 3, angry: 1}, or a list of values that come equally often. "
        "Whole datasets have the shares, not only the average of many."
    )
    cases: list[AttributeCaseConfig] = Field(
        [], description="Weights that count in place of `values`: those of the first case that applies."
    )

    @property
    def parents(self) -> dict[str, None]:
        """The attributes that it depends on."""
        return dict.fromkeys(name for case in self.cases for name in case.when)

    def case_of(self, values: Mapping[str, str]) -> int:
        """Return the number of the case that applies with these values of other attributes; -1 for none."""
        for number, case in enumerate(self.cases):
            if all(values[name] in wanted for name, wanted in case.when.items()):
                return number
        return -1

    def weights_of(self, case: int) -> dict[str, float]:
        """Return the weights in a case, by value, of those that can be drawn."""
        weights = self.values if case < 0 else self.cases[case].values
        return {value: weight for value, weight in weights.items() if weight > 0}


Attributes = Annotated[dict[str, AttributeConfig], Field(max_length=_MAX_ATTRIBUTES)]


def drawing_order(attributes: Mapping[str, AttributeConfig]) -> list[str]:
    """Return the names, each after those that it depends on; otherwise in the order of the alphabet."""
    sorter = graphlib.TopologicalSorter({name: one.parents for name, one in attributes.items()})
    sorter.prepare()
    order: list[str] = []
    while ready := sorted(sorter.get_ready()):
        order += ready
        sorter.done(*ready)
    return order


def check_drawable(attributes: Mapping[str, AttributeConfig]) -> None:
    """Raise KeyedError for names that are none, conditions in a circle, and values that are never drawn."""
    for name, one in attributes.items():
        if not _NAME.fullmatch(name):
            raise KeyedError(
                ("attributes", name),
                "the name must be small letters, digits and _, beginning with a letter, at most 40",
            )
        _check_names(attributes, name, one)
    try:
        order = drawing_order(attributes)
    except graphlib.CycleError as error:
        circle = error.args[1][::-1]
        raise KeyedError(
            ("attributes", circle[0], "cases"),
            f"{' depends on '.join(circle)}, so that none of them can be drawn first; leave one of the "
            "conditions out",
        ) from None
    for name in order:
        _check_reached(attributes, name, order)


def _check_names(attributes: Mapping[str, AttributeConfig], name: str, one: AttributeConfig) -> None:
    for number, case in enumerate(one.cases):
        keys = ("attributes", name, "cases", number)
        for other, wanted in case.when.items():
            if other not in attributes:
                raise KeyedError(
                    (*keys, "when", other), f"no attribute; {hint(other, attributes, 'there are')}"
                )
            known = attributes[other].values
            for value in wanted:
                if value not in known:
                    raise KeyedError(
                        (*keys, "when", other), f"{value!r} is no value of {other}; {_choose(value, known)}"
                    )
            if not wanted:
                raise KeyedError((*keys, "when", other), "names no value, so that the case never applies")
        for value in case.values:
            if value not in one.values:
                raise KeyedError(
                    (*keys, "values", value),
                    f"no value of attributes.{name}.values; {_choose(value, one.values)} (with weight 0 a "
                    "value is drawn in cases alone)",
                )


def _choose(value: str, known: Mapping[str, float]) -> str:
    return hint(value, known, "choose from")


def _check_reached(attributes: Mapping[str, AttributeConfig], name: str, order: list[str]) -> None:
    """Raise KeyedError when a case never applies, or a value is never drawn."""
    one = attributes[name]
    cases = {one.case_of(values) for values in _combinations(attributes, name, order)}
    for number in range(len(one.cases)):
        if number not in cases:
            raise KeyedError(
                ("attributes", name, "cases", number, "when"),
                "the case never applies: an earlier one always comes first, or the values never come "
                "together; leave it out, or put it first",
            )
    drawn = {value for case in cases for value in one.weights_of(case)}
    for value in one.values:
        if value not in drawn:
            raise KeyedError(
                ("attributes", name, "values", value),
                "the value can never be drawn; give it a weight above 0, here or in a case that applies, "
                "or leave it out",
            )


def _combinations(
    attributes: Mapping[str, AttributeConfig], name: str, order: list[str]
) -> list[dict[str, str]]:
    """Return the combinations of values that an attribute may be drawn after, of all it depends on."""
    needed = set(_ancestors(attributes, name))
    found: list[dict[str, str]] = [{}]
    for other in (one for one in order if one in needed):
        more = (
            {**values, other: value}
            for values in found
            for value in attributes[other].weights_of(attributes[other].case_of(values))
        )
        found = list(islice(more, _MAX_COMBINATIONS + 1))
        if len(found) > _MAX_COMBINATIONS:
            raise KeyedError(
                ("attributes", name, "cases"),
                f"it depends on {len(needed)} attributes, whose values come in more than "
                f"{_MAX_COMBINATIONS:,} combinations; let it depend on fewer",
            )
    return found


def _ancestors(attributes: Mapping[str, AttributeConfig], name: str) -> Iterator[str]:
    waiting, seen = list(attributes[name].parents), set[str]()
    while waiting:
        other = waiting.pop()
        if other not in seen:
            seen.add(other)
            waiting += attributes[other].parents
            yield other
