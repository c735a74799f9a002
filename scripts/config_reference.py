"""Write docs/configuration.md from the models of `dlgforge_core.config`: every key, default, bounds, meaning.

python -m scripts.config_reference            # writes the file
python -m scripts.config_reference --check    # exit code 1 when it is stale
"""

from __future__ import annotations

import argparse
import enum
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import annotated_types
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from dlgforge_core import config
from dlgforge_core.config.environment import ROLE_VARIABLES

TARGET = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a section's keys go in Dagster's run config, and where more is told of it."""

    model: type[config.ConfigModel]
    path: str
    section: str = ""  # of the keys, where the path does not end in it
    note: str = ""


# What the run config holds, in the order of a run. Sections that a model holds follow by themselves.
PLACES = (
    Place(config.SeedsConfig, "ops.seed_topics.config", "seeds"),
    Place(config.KnowledgeConfig, "ops.knowledge_index.config", "knowledge"),
    Place(config.GenerationConfig, "ops.dialogues.config"),
    Place(
        config.ChecksConfig,
        "ops.dialogue_checks.config",
        "checks",
        "The check of offline verdicts reads them at `ops.judgement_checks.config`, that of the dataset's "
        "diversity at `ops.dataset_checks.config`.",
    ),
    Place(
        config.DatasetFilesConfig,
        "ops.dialogue_dataset.config",
        "saving",
        "Beside these keys `run_id` may name one dlgforge run to write alone; empty, the default, is "
        "everything made with the latest configuration.",
    ),
    Place(config.HfPushConfig, "ops.hf_dataset.config", "saving.hf_push"),
    Place(config.LlmConfig, "resources.llm.config", "llm"),
    Place(config.RayConfig, "resources.ray.config", "ray"),
    Place(config.StoreConfig, "resources.store.config", "store"),
)

# Of sections that `PLACES` holds within another model.
NOTES = {
    "judge": "Judging afterwards, in mode offline, reads them at `ops.judgements.config`. There `run_id` "
    "may name one dlgforge run to judge alone; empty, the default, is everything made with the latest "
    "configuration."
}

# Read by the code location or the core; a test looks for each name in the code.
ENVIRONMENT = {
    "LLM_BACKEND": "Wins over `llm.backend`.",
    "LLM_MODEL": "Wins over `llm.model`.",
    "LLM_ROUTING_STRATEGY": "Wins over `llm.routing.strategy`.",
    "LLM_ROUTING_ENDPOINTS_JSON": "Wins over `llm.routing.endpoints` and `llm.base_url`: a JSON list.",
    **{
        f"{prefix}_{what}": f"Wins over `llm.agents.{role}.{key}`{more}."
        for prefix, role in ROLE_VARIABLES.items()
        for what, key, more in (
            ("BASE_URL", "base_url", ", and over its `endpoints`, key and headers"),
            (
                "API_KEY",
                "api_key_env",
                ": the key of the role, unless dlgforge starts its server",
            ),
            ("MODEL", "model", ""),
        )
    },
    "OPENAI_BASE_URL": "Wins over `llm.base_url` and `llm.routing.endpoints` when the backend is `openai`.",
    "OPENAI_API_KEY": "The key, unless `api_key_env` names another variable.",
    "DLGFORGE_POSTGRES_DSN": "The Postgres of the run state and of Dagster, unless `store.postgres.dsn` "
    "is set. Without either: an embedded server.",
    "RAY_ADDRESS": "Wins over `ray.address`.",
    "DLGFORGE_HOME": "Folder of the embedded Postgres and of datasets. Default: `$DAGSTER_HOME/.dlgforge`.",
    "DLGFORGE_SEED_FOLDER": "Where seed files are read when `seeds.path` is empty, and what the sensor "
    "`new_seed_batches` watches: a folder, or any address that fsspec knows.",
    "DLGFORGE_LANGUAGES": "Languages that are partitions, like `en,fr`. Default: those of "
    "`run.target_languages`.",
    "DLGFORGE_RECIPES": "Folder of the recipes, one dataset each. Default: `recipes`.",
    "DLGFORGE_RUN_CONFIG": "YAML file with the run config of the runs that sensors start, and the defaults "
    "of the default dataset.",
    "DLGFORGE_UI_HOSTS": "Names under which the UI is reached beside loopback, like `dagster.lab.example`.",
    "DLGFORGE_KEY_HOSTS": "Where the keys of launched runs may go, like `OPENAI_API_KEY=10.0.0.5:8000`, "
    "beside what recipes and the environment say.",
    "DLGFORGE_RAY_ADDRESSES": "Values that `ray.address` of launched runs may have beside `auto` and "
    "`local`.",
    "DLGFORGE_LAUNCH_VARIABLES": "Variables that the config of launched runs may name by `{env: NAME}`.",
    "DLGFORGE_CHILD_ENV": "Further variables for llama.cpp, vLLM and the readers of documents, by name or "
    "pattern, like `AWS_*`.",
    "DLGFORGE_SENSOR_INTERVAL_S": "Seconds between two ticks of the sensors. Default: 30.",
}

_INTRODUCTION = """\
# Configuration

Every key, its default and its meaning, written by `make docs` from the models in `dlgforge_core/config/`; a
test fails when this page is stale. The run config has the shape below; leave out what is to stay at its
default. A wrong key or value is refused before anything starts, with one line for each problem.

```yaml
ops:
  seed_topics: {config: {path: seeds/}}
  knowledge_index: {config: {path: documents/}}
  dialogues: {config: {run: {total_samples: 100}}}
  dialogue_checks: {config: {max_drop_rate: 0.2}}
  dialogue_dataset: {config: {output_dir: out}}
resources:
  llm: {config: {backend: openai, model: gpt-4.1-mini}}
  store: {config: {postgres: {connect_timeout_s: 10}}}
  ray: {config: {address: auto}}
```
"""


def render() -> str:
    """Return the whole page."""
    parts = [_INTRODUCTION]
    for place in PLACES:
        parts += _place(place)
    parts += _recipes()
    parts.append("## Environment\n\nRead where the job runs. What wins over the file is said.\n")
    rows = [[f"`{name}`", text] for name, text in ENVIRONMENT.items()]
    parts.append(_table(["Variable", "Meaning"], rows))
    return "\n".join(parts)


def _place(place: Place) -> Iterator[str]:
    """Yield the chapters of one place: one for it, or for each section that it holds."""
    if place.section:
        yield _chapter(place.section, place.model, place.path, note=place.note)
        return
    own = {name: f for name, f in place.model.model_fields.items() if _section_model(f) is None}
    for name, field in place.model.model_fields.items():
        model = _section_model(field)
        if model is not None:
            optional, note = _optional(field.annotation), NOTES.get(name, "")
            yield _chapter(name, model, f"{place.path}.{name}", optional=optional, note=note)
    if own:
        rows = [row for name, field in own.items() for row in field_rows(name, field)]
        yield f"## {', '.join(f'`{name}`' for name in own)}\n\nIn the run config: `{place.path}`.\n"
        yield _table(_HEAD, rows)


def _recipes() -> Iterator[str]:
    """Yield what a recipe may hold: sections told above, and keys of its own."""
    fields = config.Recipe.model_fields
    generation_fields = config.GenerationConfig.model_fields
    sections = ", ".join(
        f"`{name}`" for name, field in fields.items() if _section_model(field) or name in generation_fields
    )
    rows = [
        row
        for name, field in fields.items()
        if not _section_model(field) and name not in generation_fields
        for row in field_rows(name, field)
    ]
    yield (
        "## Recipes\n\nA file `recipes/NAME.yaml` is a dataset of its own, with the assets "
        "`NAME/seed_topics`, `NAME/dialogues` and so on. It may hold the sections "
        f"{sections}, with the keys above: they become the defaults of its assets' run config, where `ops` "
        "are named `NAME__dialogues` and the like. Besides:\n"
    )
    yield _table(_HEAD, rows)


_HEAD = ["Key", "Default", "Values", "Meaning"]


def _chapter(name: str, model: type[BaseModel], path: str, *, optional: bool = False, note: str = "") -> str:
    text = " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())
    off = " Unset by default." if optional else ""
    rows = [row for key, field in model.model_fields.items() for row in field_rows(key, field)]
    place = f"In the run config: `{path}`. {note}".strip()
    return f"## `{name}`\n\n{text}{off} {place}\n\n" + _table(_HEAD, rows)


def field_rows(key: str, field: FieldInfo) -> Iterator[list[str]]:
    """Yield the rows of a field: one, or one for each leaf of the model it holds."""
    model = _section_model(field)
    if model is not None and not _optional(field.annotation):
        default = field.get_default(call_default_factory=True)
        for name, inner in model.model_fields.items():
            yield from field_rows(f"{key}.{name}", _with_default(inner, default, name))
        return
    yield [f"`{key}`", _default(field), _values(field), _cell(field.description or "")]
    item = _item_model(field.annotation)
    if item is not None and item is not config.EndpointConfig:  # told once, of `llm.routing.endpoints`
        for name, inner in item.model_fields.items():
            yield from field_rows(f"{key}[].{name}", inner)
    elif model is not None:
        for name, inner in model.model_fields.items():
            yield from field_rows(f"{key}.{name}", inner)


def _with_default(field: FieldInfo, parent: Any, name: str) -> FieldInfo:
    """`field` with the default that the parent's default gives it, which may differ from its own."""
    value = getattr(parent, name, None)
    if isinstance(parent, BaseModel) and not isinstance(value, BaseModel) and not field.is_required():
        return FieldInfo.merge_field_infos(field, default=value, default_factory=None)
    return field


def _section_model(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model a field is, apart from being optional."""
    for part in _alternatives(field.annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _item_model(annotation: Any) -> type[BaseModel] | None:
    """Return the model of the items of a list or the values of a mapping."""
    for part in _alternatives(annotation):
        if typing.get_origin(part) in (list, tuple, dict):
            for inner in typing.get_args(part):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    return inner
    return None


def _alternatives(annotation: Any) -> Sequence[Any]:
    if typing.get_origin(annotation) is Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [inner for part in typing.get_args(annotation) for inner in _alternatives(part)]
    return [annotation]


def _optional(annotation: Any) -> bool:
    return type(None) in _alternatives(annotation)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, enum.Enum):
        value = value.value
    if value == "":
        return "empty"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(f"`{item}`" for item in value) if value else "none"
    if isinstance(value, dict):
        return ", ".join(f"`{key}: {item}`" for key, item in value.items()) if value else "none"
    if isinstance(value, BaseModel):
        return "see below"
    return f"`{_cell(str(value))}`"


_NAMES = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "`true`, `false`",
    SecretStr: "text, secret",
    Path: "path",
}


def _values(field: FieldInfo) -> str:
    """Type and bounds in words."""
    text = _type(field.annotation)
    limits = _limits(field.metadata)
    return f"{text} {limits}".strip()


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        limits = _limits(arguments[1:])
        return f"{_type(arguments[0])} {limits}".strip()
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(part) for part in arguments if part is not type(None))
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (list, tuple, set, frozenset):
        inner = next((a for a in arguments if a is not Ellipsis), str)
        name = _type(inner)
        return "list" if _is_model(inner) else f"list of {name}"
    if origin is dict:
        if arguments[1] is Any:
            return "mapping, as JSON"
        return "mapping of names" if _is_model(arguments[1]) else f"mapping of names to {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ", ".join(f"`{item.value}`" for item in annotation)
    if _is_model(annotation):
        return "section"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


_BOUNDS = {
    annotated_types.Ge: ("ge", "{:g} or more"),
    annotated_types.Gt: ("gt", "more than {:g}"),
    annotated_types.Le: ("le", "{:g} at most"),
    annotated_types.Lt: ("lt", "less than {:g}"),
    annotated_types.MinLen: ("min_length", "of {} at least"),
    annotated_types.MaxLen: ("max_length", "of {} at most"),
}


def _limits(metadata: Sequence[Any]) -> str:
    """Bounds, be they metadata of their own or within a field's."""
    found: list[Any] = []
    for item in metadata:
        found += item.metadata if isinstance(item, FieldInfo) else [item]
    words = []
    for item in found:
        for kind, (attribute, text) in _BOUNDS.items():
            if isinstance(item, kind):
                words.append(text.format(getattr(item, attribute)))
        if pattern := getattr(item, "pattern", None):
            words.append(f"like `{_cell(str(pattern))}`")
    return ", ".join(words)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> int:
    """Write the page, or check it; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when it is stale")
    arguments = parser.parse_args()
    text = render()
    stale = not TARGET.exists() or TARGET.read_text("utf-8") != text
    if arguments.check:
        if stale:
            print(f"{TARGET.name} is stale; run `make docs`", file=sys.stderr)
        return int(stale)
    TARGET.write_text(text, encoding="utf-8")
    print(f"{TARGET.relative_to(TARGET.parents[1])}: {'written' if stale else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
