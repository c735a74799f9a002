"""A recipe: everything one dataset is made of, in one YAML file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import yaml
from pydantic import Field, model_validator

from dlgforge_core.common.hints import hint
from dlgforge_core.common.plain_files import read_plain
from dlgforge_core.common.yaml_aliases import MAX_FILE_BYTES, load_yaml
from dlgforge_core.config.asset_names import MATERIALIZED, SEED_FILES
from dlgforge_core.config.attributes import COLUMN_PREFIX
from dlgforge_core.config.base import KeyedError, validate
from dlgforge_core.config.checks import ChecksConfig
from dlgforge_core.config.generation import GenerationConfig
from dlgforge_core.config.inputs import SeedsConfig
from dlgforge_core.config.knowledge import KnowledgeConfig
from dlgforge_core.config.llm import LlmConfig
from dlgforge_core.config.recipe_texts import with_texts
from dlgforge_core.config.rubric import dimension_names
from dlgforge_core.config.saving import SavingConfig
from dlgforge_core.config.tool_sources import with_tool_sources
from dlgforge_core.errors import ConfigError

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
SUFFIXES = (".yaml", ".yml")
# Group names, assets and resources of the default dataset.
_TAKEN = frozenset(("dlgforge", "ray", "store", "llm", SEED_FILES, *MATERIALIZED))


class Recipe(GenerationConfig):
    """What a dataset is made of; what is left out has its usual default."""

    description: str = Field("", description="What the dataset is for, in a sentence or two.")
    seeds: SeedsConfig = Field(default_factory=SeedsConfig, description="Where the seed topics are read.")
    watch: bool = Field(False, description="Start runs by themselves for new files in seeds.path.")
    knowledge: KnowledgeConfig = Field(
        default_factory=KnowledgeConfig, description="The documents the dialogues draw on."
    )
    saving: SavingConfig = Field(
        default_factory=SavingConfig, description="Where and how the dataset is written."
    )
    checks: ChecksConfig = Field(
        default_factory=ChecksConfig, description="What the dialogues must be like to pass."
    )
    llm: LlmConfig = Field(default_factory=LlmConfig, description="Where the text comes from.")

    @model_validator(mode="after")
    def _columns_apart(self) -> Self:
        columns = {COLUMN_PREFIX + name: "an attribute" for name in self.attributes}
        columns |= dict.fromkeys(self.conversation.columns, "conversation.ends or goals")
        for old, new in self.saving.output_columns.items():
            if new in columns:
                raise KeyedError(
                    ("saving", "output_columns", old),
                    f"{new!r} is the column of {columns[new]} already; choose another name",
                )
        return self

    @model_validator(mode="after")
    def _check_filters(self) -> Self:
        filters, names = self.saving.filters, dimension_names(self.judge.rubric)
        none = "there is no judge.rubric; add one, or leave this out"
        for name in filters.min_dimensions:
            if name not in names:
                known = hint(name, names, "choose from") if names else none
                raise KeyedError(
                    ("saving", "filters", "min_dimensions", name), f"no dimension of judge.rubric; {known}"
                )
        if filters.goal_met is not None and not self.conversation.goals:
            raise KeyedError(
                ("saving", "filters", "goal_met"),
                "there are no conversation.goals; add some, or leave this out",
            )
        if filters.require_ok and not names:
            raise KeyedError(("saving", "filters", "require_ok"), none)
        return self

    @model_validator(mode="after")
    def _something_to_talk_about(self) -> Self:
        if self.has_topics:
            return self
        if not self.knowledge.path:
            key = ("run", self.run.count_key) if self.run.counts_documents else ("topics", "enabled")
            raise KeyedError(
                key,
                "without topics the dialogues are made from documents, and there are none; set "
                "knowledge.path, or leave this out",
            )
        if self.watch:
            raise KeyedError(("watch",), "no seeds are read without topics; leave it out, or have topics")
        return self

    @model_validator(mode="after")
    def _check_answers(self) -> Self:
        self.answers.check_models(self.llm)
        if "dpo" in self.saving.formats and not self.answers.several:
            raise KeyedError(
                ("saving", "formats"),
                "dpo has a row for each pair of answers to a question, and each question gets one; set "
                "answers.candidates to 2 or more, or answers.revise, or leave dpo out",
            )
        return self

    @property
    def generation(self) -> GenerationConfig:
        """The sections that are the config of `dialogues`."""
        return GenerationConfig(**{name: getattr(self, name) for name in GenerationConfig.model_fields})


def read_recipes(folder: str | Path) -> dict[str, Recipe]:
    """Return the recipes of a folder by name, which is the file's without its ending.

    Empty without such a folder.

    Raises ConfigError for a file that is none: file, line, key, value and what would be right.
    """
    directory = Path(folder)
    if not directory.is_dir():
        return {}
    recipes: dict[str, Recipe] = {}
    for path in sorted(directory.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        name = path.stem
        if not NAME.fullmatch(name) or name in _TAKEN:
            raise ConfigError(
                f"{path}: {name!r} cannot name a dataset; use small letters, digits and _, beginning with a "
                f"letter, at most 40, and none of: {', '.join(sorted(_TAKEN))}"
            )
        if name in recipes:
            raise ConfigError(
                f"{path}: there is another recipe {name!r} in {directory}; rename one of the files"
            )
        recipes[name] = read_recipe(path)
    return recipes


def check_apart(recipes: Mapping[str, Recipe]) -> None:
    """Raise ConfigError when two datasets, by name, would write to the same folder or repository."""
    taken: dict[tuple[str, str], str] = {}
    for name, recipe in recipes.items():
        saving = recipe.saving
        targets = [("output_dir", os.path.realpath(saving.output_dir))] if saving.output_dir else []
        if saving.hf_push.enabled:
            targets.append(("hf_push.repo_id", saving.hf_push.repo_id))
        for key, target in targets:
            if (other := taken.setdefault((key, target), name)) != name:
                both = " and ".join(repr(dataset or "the default one") for dataset in (other, name))
                raise ConfigError(
                    f"the datasets {both} have the same saving.{key} = {target!r} and would overwrite each "
                    "other; give each one its own"
                )


def read_recipe(path: Path) -> Recipe:
    """Return the recipe in a file. Raises ConfigError."""
    try:
        text = read_plain(path, MAX_FILE_BYTES).decode("utf-8")
        root, data = load_yaml(text, str(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} cannot be read: it is nested too deeply to be a recipe") from None
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path}: the file is no mapping; it has sections like run, seeds, knowledge, llm")
    data = with_texts(data, path, lambda loc: _found(root, loc))
    data = with_tool_sources(data, path, lambda loc: _found(root, loc)[0])
    return validate(
        Recipe, data, str(path), lambda loc: f"{path}:{line}" if (line := _found(root, loc)[0]) else str(path)
    )


def _found(node: yaml.Node | None, loc: tuple[int | str, ...]) -> tuple[int | None, yaml.Node | None]:
    """Return the line, from 1, of the key that `loc` leads to, or of the last one on the way to it.

    And the value of the key, where it is there.
    """
    line = None
    for part in loc:
        found: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == part:
                    line, found = key.start_mark.line + 1, value
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = node.value[part]
            line = found.start_mark.line + 1
        node = found
    return line, node
