"""`saving`: where and how the dataset is written, what is left out of it, and where it is pushed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from dlgforge_core.common.hints import hint
from dlgforge_core.config.base import ConfigModel, Seconds, VariableName
from dlgforge_core.config.endpoints import check_port
from dlgforge_core.config.knowledge import EmbeddingConfig
from dlgforge_core.config.review import ReviewConfig
from dlgforge_core.verdicts import MAX_SCORE

FORMATS = (
    "sharegpt",
    "sharegpt_judged",
    "sharegpt_tools",
    "openai_messages",
    "prompt_completion",
    "dpo",
    "parquet",
)
# The columns of the ShareGPT files, which `output_columns` may rename; `dlgforge_core.export` fills them.
SHAREGPT_COLUMNS = (
    "id",
    "conversations",
    "language",
    "topic",
    "documents",
    "seed_id",
    "seed_batch",
    "user_persona",
    "assistant_persona",
    "n_turns",
    "models",
)
JUDGED_COLUMNS = (*SHAREGPT_COLUMNS, "score", "turn_judgements", "judgement", "judge_verdicts")
RENAMED_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "sharegpt": SHAREGPT_COLUMNS,
    "sharegpt_judged": JUDGED_COLUMNS,
}
"""The columns of the formats whose columns may be renamed."""
# The identifiers of licences on the Hugging Face hub.
_LICENSES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m openrail++ openmdw-1.0 afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause
bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0
cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl
gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl
apple-amlr mpl-2.0 odc-by odbl osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3
llama4 grok2-community gemma unknown other
"""
LICENSES = tuple(_LICENSES.split())
_SPLIT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")

Reasoning = Literal["none", "column", "field", "tags"]
Passages = Literal["none", "column", "context"]
ToolArguments = Literal["text", "object"]
Score = Annotated[float, Field(ge=0.0, le=float(MAX_SCORE))]


def _parts(names: list[str]) -> list[str]:
    for name in names:
        if name not in ("question", "answer"):
            raise ValueError(
                f"{name!r} is neither question nor answer, of which a verdict says whether it is ok"
            )
    return names


class FiltersConfig(ConfigModel):
    """Which finished dialogues stay out of the dataset, by the judge's verdicts."""

    min_score: Score | None = Field(
        None, description="Dialogues whose mean score is lower stay out. Null: no bound."
    )
    judge_reasons: list[str] = Field(
        [], description="Dialogues with a verdict that gives one of these labels stay out."
    )
    drop_reasons: list[str] = Field(
        [], description="Deprecated: the former name of judge_reasons, with which it is put together."
    )
    min_dimensions: dict[str, float] = Field(
        {},
        description="By dimension of judge.rubric, the lowest mean rating: dialogues below it stay out. "
        "Those not rated in a dimension count as unjudged.",
    )
    require_ok: Annotated[list[str], AfterValidator(_parts)] = Field(
        [],
        description="Dialogues with a verdict by the rubric that says that a question, or an answer, is not "
        "good enough stay out.",
    )
    goal_met: bool | None = Field(
        None,
        description="true: dialogues whose user missed the goal stay out; false: those whose user reached "
        "it. Null: neither. Dialogues without a goal are kept; those with one and "
        "without a verdict on it count as unjudged.",
    )
    marks: Literal["any", "good", "not_bad"] = Field(
        "any",
        description="By the marks of reviewers (make review). good: dialogues stay out that nobody has "
        "marked good, or somebody bad; not_bad: those that somebody has marked bad; any: none.",
    )
    keep_unjudged: bool = Field(True, description="Whether dialogues without any verdict are kept.")

    @property
    def settings(self) -> dict[str, Any]:
        """All that is set, as plain data; keys of rubrics and goals only where they are."""
        unset = {
            name
            for name in ("min_dimensions", "require_ok", "goal_met", "marks")
            if getattr(self, name) in ({}, [], None, "any")
        }
        return {**self.model_dump(exclude={"drop_reasons", *unset}), "judge_reasons": self.labels}

    @property
    def labels(self) -> list[str]:
        """The judge's labels that keep a dialogue out, under either name of the key."""
        return list(dict.fromkeys([*self.judge_reasons, *self.drop_reasons]))

    def notes(self, known: Sequence[str], dimensions: Sequence[str] = ()) -> list[str]:
        """Return a line for each label or dimension that no verdict can have, and for a former key.

        `known` are the judge's labels, `dimensions` those that verdicts rate.
        """
        former = "saving.filters.drop_reasons is deprecated; it is called saving.filters.judge_reasons now"
        return [
            *([former] if self.drop_reasons else []),
            *(
                f"saving.filters.judge_reasons: the judge gives no reason {label!r}; "
                f"{hint(label, known, 'choose from')}"
                for label in self.labels
                if label not in known
            ),
            *(
                f"saving.filters.min_dimensions: no verdict rates {name!r}; "
                f"{hint(name, dimensions, 'choose from') if dimensions else 'there is no judge.rubric'}"
                for name in self.min_dimensions
                if name not in dimensions
            ),
        ]


def _reasoning(value: Any) -> Reasoning:
    if isinstance(value, bool):
        return "column" if value else "none"
    if value not in get_args(Reasoning):
        raise ValueError(f"reasoning must be one of {', '.join(get_args(Reasoning))}, or true or false")
    form: Reasoning = value
    return form


class CardConfig(ConfigModel):
    """What the dataset card says that only its maker knows."""

    title: str = Field("", description="Empty: the recipe's name.")
    description: str = Field("", description="Markdown that stands under the title.")
    license: str = Field(
        "", description="A licence as the hub names it: cc-by-4.0, apache-2.0, other. Empty: none is stated."
    )

    @field_validator("license")
    @classmethod
    def _known(cls, name: str) -> str:
        if name and name not in LICENSES:
            raise ValueError(
                f"license = {name!r}: the hub knows no such identifier; "
                f"{hint(name, LICENSES, 'for one that it does not know there is other; it knows')}"
            )
        return name


class HfPushConfig(ConfigModel):
    """Pushing the dataset to a Hugging Face hub."""

    enabled: bool = Field(False, description="Push the dataset to the hub.")
    repo_id: str = Field("", description="The dataset repository, for example my-lab/support-dialogues.")
    private: bool = Field(True, description="Whether a repository that is created by the push is private.")
    revision: str = Field("main", description="The branch to commit to; it is created where it is missing.")
    token_env: VariableName = Field(
        "HF_TOKEN", description="The environment variable that holds the hub's token."
    )
    endpoint: str = Field("", description="The hub's URL. Empty: HF_ENDPOINT, else the public hub.")
    timeout_s: Seconds = Field(3600.0, description="Time that a push may take in all, retries included.")
    commit_message: str = Field("", description="Empty: says how many dialogues there are.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.enabled and not self.repo_id:
            raise ValueError(
                "enabled is true and repo_id is empty; name a repository, for example owner/name"
            )
        if self.repo_id and not _REPO_ID.fullmatch(self.repo_id):
            raise ValueError(f"repo_id = {self.repo_id!r}: a repository is named owner/name")
        if not self.revision or set(self.revision) & set(" ~^:?*[\\") or ".." in self.revision:
            raise ValueError(f"revision = {self.revision!r} is no branch name; main is one")
        if self.endpoint:
            parts = urlsplit(self.endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
                raise ValueError(
                    "endpoint must be a URL like https://hub.example.org, without a user or password in it"
                )
            check_port(self.endpoint, "endpoint")
        return self


class SemanticDedupConfig(ConfigModel):
    """Leaving out dialogues that open with the same question as another, in other words."""

    threshold: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        None,
        description="Cosine similarity of two opening questions from which on the second dialogue stays out: "
        "0.9, say. Null: off. Time grows with the square of the dialogues.",
    )
    embedding: EmbeddingConfig = Field(EmbeddingConfig(), description="What makes the questions' vectors.")
    max_dialogues: int = Field(
        300_000,
        ge=1,
        description="Of more finished dialogues the dataset is not written with a threshold: each is "
        "compared with all that are kept, at 4 bytes of memory for each dimension of each.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.threshold is not None and self.embedding.backend == "off":
            raise ValueError(
                "threshold is set, but embedding.backend is off; set it to endpoint or sentence_transformers"
            )
        return self


class DatasetFilesConfig(ConfigModel):
    """Where and how the dataset is written, and what stays out of it: the config of `dialogue_dataset`."""

    output_dir: str = Field("", description="Folder of the dataset. Empty: .dlgforge/datasets/<fingerprint>.")
    formats: list[str] = Field(
        ["sharegpt", "openai_messages", "parquet"],
        description=f"Formats to write: {', '.join(FORMATS)}.",
    )
    output_columns: dict[str, str] = Field(
        {}, description="New names of columns of the ShareGPT files: {old: new}."
    )
    splits: dict[str, float] = Field(
        {"train": 1.0},
        description="Share of each split; together 1. All dialogues on one seed topic are in one split.",
    )
    max_shard_dialogues: int = Field(
        50_000,
        ge=1,
        description="Dialogues of a file. A split with more is written in several files, as many at once as "
        "there are cores: train-00000-of-00012.jsonl, and so on.",
    )
    filters: FiltersConfig = Field(FiltersConfig(), description="What stays out of the dataset.")
    semantic_dedup: SemanticDedupConfig = Field(
        SemanticDedupConfig(), description="Leaving out dialogues that open alike in other words."
    )
    passages: Passages = Field(
        "column",
        description="Where the texts of passages go: none: nowhere, documents are named alone; column: into "
        "turn_evidence of the Parquet files; context: also before each question of openai_messages, "
        "prompt_completion, dpo and sharegpt_tools.",
    )
    system: Literal["include", "none"] = Field(
        "include",
        description="Whether system messages are written, where dialogues have one: as the first message, in "
        "ShareGPT as the column system.",
    )
    opening: Literal["include", "none"] = Field(
        "include",
        description="Whether the message is written with which the assistant opened a dialogue, before the "
        "user's first. Some chat templates (Mistral's, Gemma's) want the user to begin.",
    )
    tool_arguments: ToolArguments = Field(
        "text",
        description="How openai_messages has the arguments of tool calls. text: as JSON text, which is what "
        "OpenAI takes; object: as an object, which is what most chat templates take.",
    )
    parallel_calls: Literal["together", "apart"] = Field(
        "together",
        description="Tool calls that the assistant made at once. together: in one message; apart: one after "
        "the other, each with its result, as chat templates want it that take no more than one (Llama 3's).",
    )
    tokenizer: str = Field(
        "",
        description="What counts the tokens in the statistics: a tokenizer.json, a folder that holds one, or "
        "a model of the hub: owner/name or owner/name@revision. Empty: they are estimated, four bytes of "
        "UTF-8 each.",
    )
    min_margin: Annotated[float, Field(gt=0.0, le=float(MAX_SCORE))] = Field(
        1.0,
        description="By how many points of the score the answer of a pair in dpo must be above the other.",
    )
    review: ReviewConfig = Field(ReviewConfig(), description="What reviewers did that goes into the dataset.")
    card: CardConfig = Field(CardConfig(), description="What the dataset card says that only you know.")
    # Any, as Dagster has no type for a word or a truth value.
    reasoning: Annotated[Any, AfterValidator(_reasoning)] = Field(
        "none",
        description="Where the assistant's reasoning goes, if run.keep_reasoning or reasoning.prompted kept "
        "it. none: nowhere; column: into the column turn_reasoning of the Parquet files; field: also into "
        "reasoning_content of each assistant message of openai_messages, prompt_completion, dpo and "
        "Parquet; tags: instead between <think> and </think> before the text, in all formats. true is "
        "column, false is none.",
    )

    @field_validator("formats")
    @classmethod
    def _each_once(cls, formats: list[str]) -> list[str]:
        return list(dict.fromkeys(formats))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bad := [f for f in self.formats if f not in FORMATS]:
            raise ValueError(f"formats = {self.formats}: {hint(bad[0], FORMATS, 'choose from')}")
        if not self.formats:
            raise ValueError(f"formats is empty: choose from {', '.join(FORMATS)}")
        check_columns(self.output_columns, self.formats)
        check_splits(self.splits)
        return self


class SavingConfig(DatasetFilesConfig):
    """Where and how the dataset is written, what stays out of it, and where it is pushed."""

    hf_push: HfPushConfig = Field(HfPushConfig(), description="Pushing the dataset to a Hugging Face hub.")

    @property
    def files(self) -> DatasetFilesConfig:
        """All but the push."""
        return DatasetFilesConfig(**{name: getattr(self, name) for name in DatasetFilesConfig.model_fields})


def check_columns(renamed: Mapping[str, str], formats: Sequence[str]) -> None:
    """Raise ValueError when `renamed`, {old: new}, does not fit the ShareGPT files among `formats`."""
    if not renamed:
        return
    written = [RENAMED_COLUMNS[name] for name in formats if name in RENAMED_COLUMNS]
    if not written:
        raise ValueError(
            f"output_columns renames columns of {' and '.join(RENAMED_COLUMNS)}; formats has neither"
        )
    columns = tuple(dict.fromkeys(column for one in written for column in one))
    for old, new in renamed.items():
        if old not in columns:
            raise ValueError(
                f"output_columns: there is no column {old!r}; {hint(old, columns, 'choose from')}"
            )
        if not new.strip():
            raise ValueError(f"output_columns.{old} is empty; it must be the new name of {old!r}")
    names = [renamed.get(name, name) for name in columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"output_columns: two columns would be named {twice[0]!r}; choose another name")


def check_splits(splits: Mapping[str, float]) -> None:
    """Raise ValueError when the shares of `splits` cannot be given."""
    example = "for example {train: 0.9, validation: 0.1}"
    if not splits:
        raise ValueError(f"splits is empty; name one at least, {example}")
    for name, share in splits.items():
        if not _SPLIT_NAME.fullmatch(name) or name == "all":
            raise ValueError(
                f"splits: {name!r} cannot name a split (letters, digits and _, and not 'all'); {example}"
            )
        if not (math.isfinite(share) and share > 0):
            raise ValueError(f"splits.{name} = {share}: a share is greater than 0; {example}")
    total = math.fsum(splits.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(f"splits: the shares add up to {total:g}; they must add up to 1, {example}")
