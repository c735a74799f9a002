"""Draws of tools: which of the declared functions a dialogue has, and the state that they begin with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from dlgforge_core.config import ToolsConfig
from dlgforge_core.planning.draws import block_of, in_cycle, several_in_cycle


@dataclass(frozen=True, slots=True)
class ToolDraws:
    """What is drawn from: the functions' `names`, of which `drawn` come to those that are `always` there.

    With `drawn` None all are there. `states` is a cycle in which each comes as often as its weight says.
    """

    names: tuple[str, ...]
    always: frozenset[str] = frozenset()
    drawn: int | None = None
    states: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, tools: ToolsConfig) -> ToolDraws | None:
        """Return the draws of a configuration; None without functions."""
        if not tools.functions:
            return None
        initial, chosen = tools.state.initial, tools.per_dialogue
        states = tuple(initial[i].value for i in block_of([one.weight for one in initial])) if initial else ()
        return cls(tuple(tools.function_names), frozenset(chosen.always), chosen.drawn, states)

    def names_at(self, key: bytes, ordinal: int, needed: Collection[str] = ()) -> tuple[str, ...]:
        """Return the functions of a dialogue, in the order in which they are declared.

        Those that are `needed`, as its goal speaks of them, are there whatever is drawn.
        """
        rest = [name for name in self.names if name not in self.always]
        if self.drawn is None or not rest:
            return self.names
        numbers = several_in_cycle(key, len(rest), ordinal, self.drawn)
        chosen = {*self.always, *needed, *(rest[number] for number in numbers)}
        return tuple(name for name in self.names if name in chosen)

    def state_at(self, key: bytes, ordinal: int) -> Mapping[str, Any] | None:
        """Return the initial state of a dialogue, its templates as they are; None without one."""
        return self.states[in_cycle(key, len(self.states), ordinal)] if self.states else None
