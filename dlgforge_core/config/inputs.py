"""`seeds`, `topics` and `personas`: what the dialogues are about, and who talks."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from dlgforge_core.config.base import ConfigModel, KeyedError


class SeedColumnsConfig(ConfigModel):
    """The columns of seed files that are tables."""

    topic: str = Field("topic", description="What the dialogue is about.")
    question: str = Field("question", description="An example of what a user might ask; may be empty.")
    language: str = Field("language", description="The language, by code or name.")
    id: str = Field("id", description="An id of the row; may be empty.")
    messages: str = Field(
        "",
        description="A conversation, in OpenAI's form or ShareGPT's, or JSON text of one. Empty: `messages` "
        "or `conversations`, of rows that have no topic.",
    )

    @property
    def named(self) -> dict[str, str]:
        """The columns that hold one text, by key."""
        return self.model_dump(exclude={"messages"})


class SeedsConfig(ConfigModel):
    """Where the seed topics are read from."""

    path: str = Field(
        "",
        description="A seed file (YAML, JSONL, JSON, CSV, TSV or Parquet) or a folder of them. Empty: the "
        "shipped topics.",
    )
    strict: bool = Field(False, description="Fail on a bad entry of a seed file instead of skipping it.")
    columns: SeedColumnsConfig = Field(
        default_factory=SeedColumnsConfig,
        description="Which columns of JSON, CSV, TSV and Parquet files hold what. All others are kept as the "
        "topic's metadata. Where one is set, JSONL files are read so, too.",
    )
    language: str = Field(
        "", description="The language of rows of such files that name none. Empty: each must name one."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = self.columns.named
        if self.columns.messages.strip():
            names["messages"] = self.columns.messages
        for key, name in names.items():
            if not name.strip():
                raise KeyedError(("columns", key), "it is empty; name the column that holds it")
            if other := next((k for k, n in names.items() if n == name and k != key), None):
                raise KeyedError(("columns", key), f"{name!r} is columns.{other}, too; name another column")
        return self

    @property
    def mapped(self) -> bool:
        """Whether rows are read otherwise than by the usual columns."""
        return bool(self.language) or self.columns != SeedColumnsConfig()


class TopicsConfig(ConfigModel):
    """Whether the dialogues are about the topics of the seeds."""

    enabled: bool | None = Field(
        None,
        description="Draw a topic of the seeds for each dialogue. false: a document of the knowledge index "
        "in its place; no seeds are read. Unset: true, but false with run.per_document and run.per_chunk.",
    )


class PersonasConfig(ConfigModel):
    """Who talks."""

    enabled: bool = Field(
        True, description="Draw a persona for each role. false: the roles are told of none."
    )
    path: str = Field(
        "", description="A YAML file with `user` and `assistant` personas. Empty: the shipped ones."
    )
