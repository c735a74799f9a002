"""The fingerprint asks before it changes: what it is made of, and what it is for configurations of today.

A fingerprint that changes makes every dataset of its configuration begin anew, with new ids and at new cost.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dlgforge_core.config import GenerationConfig, LlmConfig, Recipe, read_recipe
from dlgforge_core.generation.prepare import with_question_kinds
from dlgforge_core.planning.fingerprint import ContentSource, content_config, content_fingerprint
from dlgforge_core.planning.personas import read_personas

ROOT = Path(__file__).parents[2]
KEPT = Path(__file__).parent / "golden" / "content_config.json"

WHERE_A_KEY_BELONGS = """
What the fingerprint of the default configuration is made of has changed: {difference}

A key that was added belongs in one of these places of dlgforge_core/planning/fingerprint.py:
- It decides what is generated, and its default is what was done before: leave it out where it has its default
  (`_COUNT_WHERE_SET`, or a condition as for `tools`). No dataset begins anew.
- It decides how fast, how far or where a run goes, or what is made of the dialogues afterwards: leave it out
  (`_RUN_KEYS_WITHOUT_EFFECT`, EFFORT_KEYS, OFFLINE_KEYS).
- It stands in another section than `run`, `judge`, `coverage` or `llm.agents`: it counts only if
  `content_config` names it.
Prompts or planning that give other dialogues for the same configuration: raise CONTENT_VERSION. Every dataset
then begins anew; say so in the changelog. Only then write this test's files anew, with
`python -m tests.unit.test_fingerprint_pinned`.
"""

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "an endpoint": {"llm": {"backend": "openai", "model": "m", "base_url": "http://host:8000/v1"}},
    "attached servers": {
        "llm": {
            "backend": "vllm_attach",
            "model": "m",
            "routing": {"endpoints": [{"base_url": "http://host:8000/v1"}]},
            "agents": {"qa_generator": {"model": "other", "instructions": "Be brief.", "temperature": 1.0}},
        },
        "run": {"n_turns": 3, "question_kinds": ["for an example"]},
    },
    "managed servers": {
        "llm": {"backend": "vllm_managed", "vllm": {"model": "org/model", "served_model_name": "model"}},
        "judge": {"mode": "online", "granularity": "conversation"},
    },
    "own weights": {"llm": {"embedded": {"model_path": "/models/some.gguf"}}, "judge": {"mode": "offline"}},
    "no judge, tools": {
        "judge": {"mode": "off"},
        "tools": {"enabled": True, "web_search": True},
        "run": {"keep_reasoning": True, "seed": 7, "turn_count_distribution": "uniform"},
    },
}


def _content(recipe: Recipe, index_id: str = "") -> tuple[dict[str, Any], str]:
    """Return what a plan's fingerprint is made of, and the fingerprint."""
    generation, llm = with_question_kinds(recipe.generation, recipe.llm), recipe.llm
    args = (generation, llm, read_personas(generation.personas.path), ContentSource("", index_id))
    return content_config(*args), content_fingerprint(*args)


def _example(path: Path) -> Recipe:
    """Return the configuration in an example of a run config."""
    data = yaml.safe_load(path.read_text("utf-8"))
    found: dict[str, Any] = dict(data.get("ops", {}).get("dialogues", {}).get("config", {}))
    llm = data.get("resources", {}).get("llm", {}).get("config", {})
    if isinstance(llm.get("vllm", {}).get("model"), dict):  # {env: ...}, filled in by Dagster
        llm["vllm"]["model"] = "/models/a-model"
    return Recipe(
        **{key: value for key, value in found.items() if key in GenerationConfig.model_fields},
        llm=LlmConfig(**llm),
    )


def _all() -> dict[str, Recipe]:
    return {
        **{name: Recipe(**data) for name, data in CONFIGURATIONS.items()},
        **{f"recipes/{path.name}": read_recipe(path) for path in sorted((ROOT / "recipes").glob("*.yaml"))},
        **{f"examples/{path.name}": _example(path) for path in sorted((ROOT / "examples").glob("*.yaml"))},
    }


def _made() -> dict[str, Any]:
    content, _ = _content(Recipe())
    content["personas"] = "see dlgforge_core/data/personas.yaml"
    return {
        "content": content,
        "fingerprints": {name: _content(recipe)[1] for name, recipe in _all().items()},
        "with documents": {name: _content(recipe, "an index")[1] for name, recipe in _all().items()},
    }


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    """As written by `write`."""
    data: dict[str, Any] = json.loads(KEPT.read_text("utf-8"))
    return data


def _difference(before: Any, now: Any, key: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for name in sorted(before.keys() | now.keys())
            for line in _difference(before.get(name, "absent"), now.get(name, "absent"), f"{key}.{name}")
        ]
    return [] if before == now else [f"{key.removeprefix('.')} was {before!r} and is {now!r}"]


def test_what_the_default_fingerprint_is_made_of(kept: dict[str, Any]) -> None:
    difference = "; ".join(_difference(kept["content"], _made()["content"]))
    assert not difference, WHERE_A_KEY_BELONGS.format(difference=difference)


@pytest.mark.parametrize("documents", ["fingerprints", "with documents"])
def test_fingerprints_of_today_stay(kept: dict[str, Any], documents: str) -> None:
    made = _made()[documents]
    changed = [name for name, value in kept[documents].items() if made.get(name) != value]
    difference = f"other fingerprints ({documents}) for: {', '.join(changed)}"
    assert not changed, WHERE_A_KEY_BELONGS.format(difference=difference)


def test_a_key_that_would_count_is_named() -> None:
    before = {"run": {"seed": 1}, "version": 2}
    assert _difference(before, {"run": {"seed": 1, "pace": 3}, "version": 2}) == [
        "run.pace was 'absent' and is 3"
    ]


def write() -> None:
    """Keep what is made now."""
    KEPT.write_text(json.dumps(_made(), indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    write()
