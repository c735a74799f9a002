"""`tools`: what the assistant may call while it answers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator

from dlgforge_core.common.secrets import sendable
from dlgforge_core.config.base import ConfigModel, OptionalVariableName, PositiveInt, Seconds
from dlgforge_core.config.endpoints import check_base_url
from dlgforge_core.errors import ConfigError


class ToolsConfig(ConfigModel):
    """Which tools the assistant is offered, and how far it may go with them."""

    enabled: bool = Field(
        False,
        description="The assistant may call tools: vector_db_search, where there is knowledge, and, if it is "
        "on, web_search. An endpoint that takes no tools is asked without them.",
    )
    max_rounds: PositiveInt = Field(
        3, description="Rounds of tool calls for one answer; then it is asked for without tools."
    )
    result_chars: Annotated[int, Field(ge=200)] = Field(
        4000, description="Most characters of one result that the model gets."
    )
    timeout_s: Seconds = Field(20.0, description="Time-out of one tool call.")
    web_search: bool = Field(False, description="Offer web_search, by Serper; needs `enabled` and a key.")
    web_search_key_env: OptionalVariableName = Field(
        "SERPER_API_KEY", description="Environment variable that holds the key of the web search."
    )
    web_search_url: str = Field(
        "https://google.serper.dev/search", description="Address of the web search, Serper's or one like it."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.web_search and not self.enabled:
            raise ValueError("web_search is true, but enabled is false; set tools.enabled to true as well")
        if self.web_search and not self.web_search_key_env:
            raise ValueError("web_search_key_env is empty; name the environment variable that holds the key")
        check_base_url(self.web_search_url, "web_search_url")
        return self


def web_search_key(config: ToolsConfig, env: Mapping[str, str] = os.environ) -> SecretStr | None:
    """Return the key of the web search; None when that is off.

    Raises ConfigError, naming the variable, when it is on and there is no key.
    """
    if not config.web_search:
        return None
    key = sendable(env.get(config.web_search_key_env, ""), config.web_search_key_env)
    if not key:
        raise ConfigError(
            f"tools.web_search is true, but {config.web_search_key_env} is not set; set it to a key of "
            "Serper, or tools.web_search to false"
        )
    return SecretStr(key)
