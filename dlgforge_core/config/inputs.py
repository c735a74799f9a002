"""`seeds` and `personas`: what the dialogues are about, and who talks."""

from __future__ import annotations

from pydantic import Field

from dlgforge_core.config.base import ConfigModel


class SeedsConfig(ConfigModel):
    """Where the seed topics are read from."""

    path: str = Field(
        "", description="A seed file (YAML or JSONL) or a folder of them. Empty: the shipped topics."
    )
    strict: bool = Field(False, description="Fail on a bad entry of a seed file instead of skipping it.")


class PersonasConfig(ConfigModel):
    """Who talks."""

    path: str = Field(
        "", description="A YAML file with `user` and `assistant` personas. Empty: the shipped ones."
    )
