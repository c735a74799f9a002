"""Usage: the calls that were made for a dialogue, by role, and what calls have cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Spending:
    """What calls have cost: US dollars, and how many calls had a price that is not known."""

    dollars: float = 0.0
    unpriced: int = 0

    def __bool__(self) -> bool:
        """Whether there is anything to tell: calls to servers of one's own cost nothing."""
        return self.dollars > 0 or self.unpriced > 0

    def __add__(self, other: Spending) -> Spending:
        """Return the sum."""
        return Spending(self.dollars + other.dollars, self.unpriced + other.unpriced)

    def __str__(self) -> str:
        if not self.dollars and self.unpriced:
            return "cost unknown"
        more = f" and {self.unpriced:,} calls of unknown price" if self.unpriced else ""
        return dollars(self.dollars) + more


def dollars(amount: float) -> str:
    """Return an amount of money as people write it; small ones with three digits that say something."""
    decimals = 2 if amount >= 1 or not amount else min(12, 2 - math.floor(math.log10(amount)))
    return f"${amount:,.{decimals}f}"


NO_SPENDING = Spending()


@dataclass(frozen=True, slots=True)
class RoleUsage:
    """The answered calls of one role, usable or not. `unpriced` of them are of a price that is not known."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    dollars: float = 0.0
    unpriced: int = 0

    def __add__(self, other: RoleUsage) -> RoleUsage:
        """Return the sum."""
        return RoleUsage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.dollars + other.dollars,
            self.unpriced + other.unpriced,
        )

    @property
    def spending(self) -> Spending:
        """What the calls cost."""
        return Spending(self.dollars, self.unpriced)

    def to_json(self) -> dict[str, Any]:
        """As plain data, without what is 0."""
        return {name: value for name in _NAMES if (value := getattr(self, name))}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RoleUsage:
        """Return the inverse of `to_json`; fields of a later version are passed over."""
        return cls(**{name: data[name] for name in _NAMES if name in data})


_NAMES = tuple(field.name for field in fields(RoleUsage))
NO_USAGE = RoleUsage()

Usage = Mapping[str, RoleUsage]
"""By role."""


def usage_from_json(data: Mapping[str, Any] | None) -> dict[str, RoleUsage]:
    """Return the usage that the store keeps, by role; empty where none was counted."""
    return {role: RoleUsage.from_json(one) for role, one in (data or {}).items()}


def usage_json(usage: Usage) -> dict[str, Any]:
    """Return the inverse of `usage_from_json`."""
    return {role: one.to_json() for role, one in usage.items()}


def total_usage(parts: Iterable[RoleUsage]) -> RoleUsage:
    """Return the sum."""
    return sum(parts, NO_USAGE)
