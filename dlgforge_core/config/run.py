"""`run`: what is to be made, and how hard to work on it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dlgforge_core.config.acceptance import AcceptConfig
from dlgforge_core.config.base import ConfigModel, KeyedError, PositiveInt, Seconds
from dlgforge_core.config.prices import Dollars
from dlgforge_core.dialogue import DropReason

TurnCount = Annotated[int, Field(ge=1, le=1000)]


def _drop_reasons(value: list[str]) -> list[str]:
    known = [reason.value for reason in DropReason]
    for reason in value:
        if reason not in known:
            raise ValueError(f"{reason!r} is no drop reason; choose from {', '.join(known)}")
    return value


TurnCountDistribution = Literal["uniform", "poisson", "exponential"]

TOTAL_SAMPLES = 12
"""What an unset `run.total_samples` stands for."""
OPEN_PER_SLOT = 4
"""Dialogues in progress for each call slot, so that there is always one whose turn it is."""

# What `run.question_kinds` stands for when it is unset.
QUESTION_KINDS = (
    "for a fact or what something means",
    "how to do something, step by step",
    "why something is as it is",
    "which of several things to choose, and when",
    "what to do in a situation of mine that I tell in a sentence or two",
    "about something that went wrong",
    "whether something that I believe is true, which may be false",
    "for an example",
)


class SpawnConfig(ConfigModel):
    """Section `run.distributed.spawn`: which actors are started."""

    coordinator: bool = Field(True, description="Run the coordinator as a Ray actor.")
    workers: bool = Field(True, description="Run the workers as Ray actors.")


class DistributedConfig(ConfigModel):
    """Section `run.distributed`: generation on Ray."""

    enabled: bool = Field(False, description="Generate on Ray workers instead of in this process.")
    executor: Literal["ray"] = Field("ray", description="What carries the workers.")
    spawn: SpawnConfig = Field(default_factory=SpawnConfig, description="Which actors are started.")


COUNT_KEYS = ("total_samples", "per_document", "per_chunk")
"""Settings of `run` that say how many dialogues there are; one of them at most is set."""

# Settings of `run` that say how hard to work and when to stop, not what to make.
EFFORT_KEYS = frozenset(
    {
        "concurrency",
        "max_open_dialogues",
        "max_tokens",
        "max_cost",
        "max_dialogues",
        "preview_dialogues",
        "patience_s",
        "lease_s",
        "max_concurrent_runs",
        "resume_run_id",
        "retry_dropped",
        "max_attempts_per_sample",
        "distributed",
    }
)


class RunConfig(ConfigModel):
    """What is to be made, and how hard to work on it."""

    seed: int = Field(42, description="Random seed of the plan: the same inputs and seed give the same plan.")
    total_samples: PositiveInt | None = Field(
        None,
        description="Dialogues for each seed batch, shared evenly among the target languages. With `accept` "
        f"those that are accepted. Unset: {TOTAL_SAMPLES}, unless per_document or per_chunk is set.",
    )
    per_document: PositiveInt | None = Field(
        None,
        description="In place of total_samples: dialogues for each document of the knowledge index, made "
        "from it, in its language where that is a target one; any other document's in all of them in turn.",
    )
    per_chunk: PositiveInt | None = Field(
        None,
        description="In place of total_samples: dialogues for each chunk of the knowledge index, made from "
        "it alone.",
    )
    accept: AcceptConfig = Field(
        default_factory=AcceptConfig,
        description="What a finished dialogue must be like to count. Unset: total_samples are planned, and "
        "those that are not dropped come out.",
    )
    max_attempts_per_sample: Annotated[int, Field(ge=1, le=1000)] = Field(
        16,
        description="With `accept`: how many dialogues may be made for each one that is to be accepted, the "
        "first included. A greater number takes a finished run up again.",
    )
    target_languages: list[str] = Field(
        ["en", "fr", "ar", "es"], description="Languages to generate, as they are named in the seed files."
    )
    fallback_language: str = Field(
        "",
        description="Whose topics a target language takes when a seed batch has none in it, nor in its base "
        "language (ar for ar-MA): en, say. Empty: nobody's.",
    )
    n_turns: TurnCount | None = Field(
        None, description="Turns of every dialogue. Unset: sampled between min_turns and max_turns."
    )
    min_turns: TurnCount = Field(
        2,
        description="Fewest turns of a dialogue when n_turns is unset; with conversation.ends user also the "
        "turns after which the user may end it.",
    )
    max_turns: TurnCount = Field(6, description="Most turns of a dialogue when n_turns is unset.")
    turn_count_distribution: TurnCountDistribution = Field(
        "poisson", description="How turn counts are sampled before they are clamped to the bounds."
    )
    turn_count_mean: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = Field(
        None, description="Mean of the distribution. Unset: the middle of min_turns and max_turns."
    )
    question_kinds: list[Annotated[str, Field(min_length=1, max_length=200)]] | None = Field(
        None,
        description="Sorts of questions, each as it follows 'This time, ask'. A dialogue goes through them "
        "in an order of its own. Empty: whatever the model asks. Unset: the shipped ones, but none with an "
        "embedded model that is too small to follow them, see llm.embedded.follows_question_kinds.",
    )
    concurrency: PositiveInt = Field(
        8, description="Call slots: LLM calls that may be under way at once, in each worker."
    )
    max_open_dialogues: PositiveInt | None = Field(
        None, description="Dialogues in progress at once in one process. Unset: four for each call slot."
    )
    keep_reasoning: bool = Field(
        False, description="Keep what a reasoning model thought before it answered, with each turn."
    )
    max_tokens: PositiveInt | None = Field(
        None, description="Budget: stop cleanly, resumable, once this many tokens (in and out) were used."
    )
    max_cost: Dollars | None = Field(
        None,
        description="Budget: stop cleanly, resumable, once the calls have cost this many US dollars. Every "
        "price must be known, see llm.prices.",
    )
    max_dialogues: PositiveInt | None = Field(
        None, description="Budget: stop cleanly, resumable, once this run has finished this many dialogues."
    )
    preview_dialogues: PositiveInt = Field(
        5, description="How many dialogues of the plan the job preview_dialogues makes."
    )
    retry_dropped: Annotated[list[str], AfterValidator(_drop_reasons)] = Field(
        [],
        description="Drop reasons whose dialogues are tried again: "
        f"{', '.join(reason for reason in DropReason if reason is not DropReason.ENDPOINT_ERROR)}. Those "
        "dropped as endpoint_error always are, and of context_overflow and invalid_output those that were "
        "dropped with another set-up of the endpoints.",
    )
    patience_s: Seconds = Field(
        60.0, description="Seconds for which no endpoint may answer before the run stops with the reason."
    )
    lease_s: Annotated[float, Field(ge=2.0)] = Field(
        30.0, description="Seconds after which a worker that gave no sign loses its dialogues to the others."
    )
    max_concurrent_runs: PositiveInt = Field(
        1,
        description="Runs on this database that may use the endpoints at once; further ones wait. "
        "`judgements` keeps to what the run it judges was made with.",
    )
    resume_run_id: str | None = Field(
        None, description="Finish this earlier run, with the configuration it was planned with."
    )
    distributed: DistributedConfig = Field(default_factory=DistributedConfig, description="Ray execution.")

    @model_validator(mode="after")
    def _one_count(self) -> Self:
        counts = {name: getattr(self, name) for name in COUNT_KEYS}
        given = [name for name, value in counts.items() if value is not None]
        if len(given) > 1:
            listed = " and ".join(f"{name} = {counts[name]}" for name in given)
            raise KeyedError((given[-1],), f"{listed}: of these keys one alone can be set; keep one")
        return self

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_turns > self.max_turns:
            raise ValueError(
                f"min_turns = {self.min_turns} is greater than max_turns = {self.max_turns}; "
                f"set min_turns to {self.max_turns} or less, or max_turns to {self.min_turns} or more"
            )
        if not self.target_languages:
            raise ValueError("target_languages is empty; name at least one language, for example ['en']")
        twice = sorted({x for x in self.target_languages if self.target_languages.count(x) > 1})
        if twice:
            raise ValueError(f"target_languages names {', '.join(twice)} more than once; name each once")
        if self.max_open_dialogues is not None and self.max_open_dialogues < self.concurrency:
            raise ValueError(
                f"max_open_dialogues = {self.max_open_dialogues} is less than concurrency = "
                f"{self.concurrency}, so call slots would stay empty; use {self.concurrency} or more"
            )
        return self

    @property
    def samples(self) -> int:
        """Dialogues for each seed batch, where they are not counted by documents."""
        return self.total_samples or TOTAL_SAMPLES

    @property
    def count_key(self) -> str:
        """The key that says how many dialogues there are."""
        return next((name for name in COUNT_KEYS if getattr(self, name) is not None), COUNT_KEYS[0])

    @property
    def counts_documents(self) -> bool:
        """Whether it is said how many dialogues there are for each document or chunk."""
        return self.per_document is not None or self.per_chunk is not None

    @property
    def open_dialogues(self) -> int:
        """How many dialogues one process keeps in progress."""
        return self.max_open_dialogues or OPEN_PER_SLOT * self.concurrency
