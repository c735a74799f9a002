"""Endpoints that a preflight looks at, those that can be used though others cannot among them."""

from __future__ import annotations

from dlgforge_core.config import Recipe
from dlgforge_core.preflight.callers import callers_of_recipe, endpoints_of_callers
from dlgforge_core.preflight.report import Result, Row

LLM = {
    "backend": "openai",
    "model": "m",
    "routing": {
        "endpoints": [
            {"name": "j", "base_url": "http://a/v1", "roles": ["qa_judge"]},
            {"name": "o", "base_url": "http://b/v1", "api_key_env": "KEY"},
        ]
    },
}
JUDGES = [{"name": "own", "model": "m", "api_key_env": "JUDGE_KEY"}, {"model": "n"}]


def test_what_can_be_used_is_looked_at_by_the_rules_of_a_run() -> None:
    recipe = Recipe.model_validate({"llm": LLM, "judge": {"mode": "offline", "judges": JUDGES}})
    callers, env = callers_of_recipe(recipe, recipe.llm), {"KEY": "k-123456789", "JUDGE_KEY": "j-123456789"}

    def served(env: dict[str, str]) -> tuple[dict[tuple[str, str], set[str]], list[Row]]:
        rows: list[Row] = []
        found = endpoints_of_callers(recipe.llm, callers, env, rows.append)
        assert len({endpoint.name for endpoint in found}) == len(found)
        return {(e.base_url, e.api_key): set(e.callers) for e in found}, rows

    everything, rows = served(env)
    assert not rows
    del env["KEY"]
    usable, (row,) = served(env)
    assert row.result is Result.FAILED
    assert "KEY is not set" in row.finding
    assert usable == {where: who for where, who in everything.items() if "k-123456789" not in where}
    assert usable["http://a/v1", "j-123456789"] == {"qa_judge:own"}
