"""Budgets of what calls may use."""

from __future__ import annotations

from typing import Protocol


class Budgets(Protocol):
    """A section of the configuration that has them; None: no limit."""

    @property
    def max_tokens(self) -> int | None:
        """Tokens in and out."""

    @property
    def max_cost(self) -> float | None:
        """US dollars."""


def limited(budgets: Budgets) -> bool:
    """Whether the section has any budget."""
    return budgets.max_tokens is not None or budgets.max_cost is not None


def used_up(section: str, budgets: Budgets, tokens: int, dollars: float) -> str | None:
    """Return which budget of the section is used up, as a reason to stop; None while none is."""
    for key, limit, amount in (
        ("max_tokens", budgets.max_tokens, tokens),
        ("max_cost", budgets.max_cost, dollars),
    ):
        if limit is not None and amount >= limit:
            return f"{section}.{key} = {limit:.15g} is used up"
    return None
