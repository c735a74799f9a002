"""Prices: what the calls to a model at an endpoint cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from dlgforge_core.config import ANY_MODEL, LlmConfig, PriceConfig, ProviderConfig, backend_of
from dlgforge_core.errors import ConfigError
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.providers import Callers, role_of
from dlgforge_core.usage import RoleUsage

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """What tokens cost, in US dollars for a million."""

    input: float
    cached_input: float
    output: float

    @classmethod
    def of(cls, config: PriceConfig) -> Price:
        """Return the price in a configuration."""
        cached = config.input if config.cached_input is None else config.cached_input
        return cls(config.input, cached, config.output)

    def cost(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """Return what a call cost; the cached tokens are among those of the prompt."""
        cached = min(cached_tokens, prompt_tokens)
        return (
            (prompt_tokens - cached) * self.input
            + cached * self.cached_input
            + completion_tokens * self.output
        ) / _MILLION


NOTHING = Price(0.0, 0.0, 0.0)
"""The price of servers of one's own."""


class PriceList:
    """Prices by caller, endpoint and model, None where one is not known. Plain data: it travels anywhere."""

    def __init__(self, prices: Mapping[tuple[str, str, str], Price | None] | None = None) -> None:
        self._prices = dict(prices or {})

    def of(self, caller: str, endpoint: str, model: str) -> Price | None:
        """Return the price of a call; None when it is not known."""
        return self._prices.get((caller, endpoint, model))

    @property
    def _unknown(self) -> dict[tuple[str, str], list[str]]:
        """The callers whose price is not known, by model and endpoint."""
        found: dict[tuple[str, str], list[str]] = {}
        for (caller, endpoint, model), price in self._prices.items():
            if price is None:
                found.setdefault((model, endpoint), []).append(caller)
        return found

    def usage(
        self, caller: str, endpoint: str, model: str, prompt: int, completion: int, cached: int
    ) -> RoleUsage:
        """Return what a call has used that was answered with so many tokens."""
        price = self.of(caller, endpoint, model)
        if price is None:
            return RoleUsage(1, prompt, completion, cached, unpriced=int(bool(prompt or completion)))
        return RoleUsage(1, prompt, completion, cached, price.cost(prompt, completion, cached))

    def check(self, key: str, limit: float | None) -> list[str]:
        """Return what to tell of prices that are not known.

        Raises ConfigError where `key` sets a limit to what calls may cost, which could not be kept.
        """
        problems = self._problems()
        if problems and limit is not None:
            raise ConfigError(f"{key} = {limit:.15g} cannot be kept:\n  " + "\n  ".join(problems))
        return problems

    def _problems(self) -> list[str]:
        return [
            f"the price of {model} at {endpoint} ({', '.join(callers)}) is not known; set llm.prices: "
            f"{{{model}: {{input: ..., output: ...}}}}, in US dollars for a million tokens, 0 where it costs "
            "nothing"
            for (model, endpoint), callers in self._unknown.items()
        ]


def price_list(
    llm: LlmConfig, callers: Callers, models: Mapping[str, Iterable[str]], endpoints: Iterable[Endpoint]
) -> PriceList:
    """Return the prices of the callers' `models`, by caller, at the endpoints that they ask."""
    return PriceList(
        {
            (caller, endpoint.name, model): price_of(llm, provider, endpoint.base_url, model)
            for endpoint in endpoints
            for caller, provider in callers.items()
            if endpoint.serves(caller)
            for model in models.get(caller, models.get(role_of(caller), ()))
        }
    )


def price_of(llm: LlmConfig, provider: ProviderConfig, base_url: str, model: str) -> Price | None:
    """Return the price of a model: the configuration's, its provider's list price, nothing, or None.

    Nothing is what servers of one's own cost, which are those of a backend that says so.
    """
    tables = (provider.prices, llm.prices)
    for name in (model, ANY_MODEL):
        for table in tables:
            if name in table:
                return Price.of(table[name])
    own = not provider.has_address and backend_of(llm.backend).own_servers
    if own and backend_of(llm.backend).starts_servers:
        return NOTHING
    return list_price(base_url, model) or (NOTHING if own else None)


def list_price(base_url: str, model: str) -> Price | None:
    """Return what the provider at an address asks for a model today; None when that is not known.

    Of prices that depend on the length of the prompt it is that of short ones.
    """
    # Half a second and 30 MB, for those alone who ask a provider.
    from genai_prices import data_snapshot
    from genai_prices.types import TieredPrices

    try:
        _, info = data_snapshot.get_snapshot().find_provider_model(model, None, None, base_url)
    except LookupError:
        return None
    prices = info.get_prices(datetime.now(UTC))

    def of(key: str) -> float | None:
        value: Decimal | TieredPrices | None = getattr(prices, key)
        return None if value is None else float(value.base if isinstance(value, TieredPrices) else value)

    prompt, answer, cached = of("input_mtok"), of("output_mtok"), of("cache_read_mtok")
    if prompt is None or answer is None or of("requests_kcount") is not None:
        return None  # it is charged for otherwise
    return Price(prompt, prompt if cached is None else cached, answer)
