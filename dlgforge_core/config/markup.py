"""`llm.markup`: what is taken out of models' texts."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from dlgforge_core.config.base import ConfigModel


def _marks(value: list[str]) -> list[str]:
    for mark in value:
        if not mark.strip() or mark != mark.strip() or len(mark) > 100 or "\n" in mark:
            raise ValueError(f"{mark!r} is no tag or token: write it as models do, in one line")
    return value


def _tags(value: list[str]) -> list[str]:
    for tag in _marks(value):
        if len(tag.split()) > 2:
            raise ValueError(f"{tag!r}: give the name of a tag, or what opens and what closes it: '<<: :>>'")
        if len(tag.split()) == 1 and tag[0] in "<[":
            raise ValueError(f"{tag!r}: give the name of a tag alone, {tag.strip('<>[]/')!r}")
    return value


class MarkupConfig(ConfigModel):
    """Thinking and control tokens that models leave in their texts."""

    remove: bool = Field(
        True,
        description="Take thinking out of texts, and end them at the first control token of a chat template. "
        "Off: texts stay as they come.",
    )
    thinking_tags: Annotated[list[str], AfterValidator(_tags)] = Field(
        [],
        description="Further tags around thinking: the name of a tag (`plan` for <plan>...</plan>), or what "
        "opens and what closes it with a space between.",
    )
    control_tokens: Annotated[list[str], AfterValidator(_marks)] = Field(
        [], description="Further tokens that end a text."
    )
    keep: Annotated[list[str], AfterValidator(_marks)] = Field(
        [],
        description="Tags and tokens that stay, as they are written (`</s>`) or by their name (`think`): for "
        "texts that are about them.",
    )
