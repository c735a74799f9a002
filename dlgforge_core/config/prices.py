"""Prices of models: what their tokens cost."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from dlgforge_core.config.base import ConfigModel

ANY_MODEL = "*"
"""In a table of prices: every model that is not named."""

DollarsPerMillion = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Dollars = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class PriceConfig(ConfigModel):
    """What a model's tokens cost, in US dollars for a million."""

    input: DollarsPerMillion = Field(description="Tokens of prompts.")
    cached_input: DollarsPerMillion | None = Field(
        None,
        description="Tokens of prompts that the server reports as read from its cache. Unset: as `input`.",
    )
    output: DollarsPerMillion = Field(description="Tokens of answers, of reasoning too; of embeddings 0.")


def _named(prices: dict[str, PriceConfig]) -> dict[str, PriceConfig]:
    if any(not name.strip() for name in prices):
        raise ValueError(f"one of its keys is empty; write the model's name, or {ANY_MODEL!r} for any model")
    return prices


Prices = Annotated[dict[str, PriceConfig], AfterValidator(_named)]
