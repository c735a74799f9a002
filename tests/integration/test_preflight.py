"""A preflight: every part is looked at, whatever fails, and each failure says why and what helps."""

from __future__ import annotations

import http.server
import threading
import time
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from dlgforge_core.config import PostgresConfig, Recipe
from dlgforge_core.database.dsn import DsnSource, ResolvedDsn
from dlgforge_core.preflight.check import SetUp, check_setup
from dlgforge_core.preflight.report import Report, Result
from dlgforge_dagster import preflight
from dlgforge_dagster.definitions import build_definitions
from tests.support.ports import free_port
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

KEY = "sk-preflight-0123456789abcdef"
RUN = {"target_languages": ["en"], "n_turns": 2}

Found = dict[tuple[str, str], tuple[Result, str]]


def checked(dsn: str, recipe: dict[str, Any], timeout_s: float = 30.0, **setup: Any) -> tuple[Found, Report]:
    """Return the rows by subject and check: what came of each, and its texts together."""
    report = check_setup(
        SetUp(
            Recipe.model_validate({"run": RUN, **recipe}),
            dsn=lambda: ResolvedDsn(dsn, DsnSource.CONFIG),
            **{"env": {"SIM_KEY": KEY}, **setup},
        ),
        timeout_s,
    )
    return {(r.subject, r.check): (r.result, f"{r.finding} | {r.remedy}") for r in report.rows}, report


def openai(sim: SimulatedEndpoint, **llm: Any) -> dict[str, Any]:
    return {
        "backend": "openai",
        "model": "simulated",
        "base_url": sim.base_url,
        "api_key_env": "SIM_KEY",
        **llm,
    }


def test_a_set_up_that_works_has_a_row_for_everything(dsn: str, sim: SimulatedEndpoint) -> None:
    sim.configure(api_key=KEY, tool_calls="once")
    vectors = {"backend": "endpoint", "base_url": sim.base_url, "model": "e", "api_key_env": "SIM_KEY"}
    found, report = checked(
        dsn,
        {
            "llm": openai(sim),
            "tools": {"enabled": True},
            "knowledge": {"path": "shipped", "embedding": vectors},
            "retrieval": {
                "mode": "hybrid",
                "rerank": {"backend": "endpoint", "base_url": sim.base_url, "api_key_env": "SIM_KEY"},
            },
        },
    )
    assert not report.failed, report.text()
    assert {result for result, _ in found.values()} == {Result.OK}, report.text()
    at = sim.base_url.removeprefix("http://").removesuffix("/v1")
    assert {
        (f"endpoint {at}", "reachable"),
        (f"endpoint {at}", "models"),
        *((f"{role} at {at}", "answer") for role in ("qa_generator", "kb_responder", "qa_judge")),
        *((f"{role} at {at}", "context length") for role in ("qa_generator", "kb_responder", "qa_judge")),
        (f"kb_responder at {at}", "tools"),
        (f"qa_judge at {at}", "structured output"),
        ("knowledge.embedding", "embeddings"),
        ("retrieval.rerank", "reranking"),
        *(("postgres", check) for check in ("DSN", "reachable", "version", "rights", "connections")),
        ("ray", "use"),
    } == found.keys()
    assert "json_schema" in found[f"qa_judge at {at}", "structured output"][1]
    assert "called vector_db_search" in found[f"kb_responder at {at}", "tools"][1]
    with psycopg.connect(dsn) as connection:  # nothing was made, the schema of the run state included
        assert connection.execute("SELECT to_regnamespace('dlgforge')").fetchone() == (None,)
    assert KEY not in report.text() + report.markdown()


def test_all_is_tried_whatever_fails(dsn: str, sim: SimulatedEndpoint) -> None:
    sim.configure(json_schema_support="none", tool_calls="refused")
    closed = f"http://127.0.0.1:{free_port()}/v1"
    with simulated_endpoint(api_key="another-key-9876543210", models=("large",)) as guarded:
        found, report = checked(
            dsn.replace("/test_", "/no_such_test_"),
            {
                "llm": {
                    "backend": "openai",
                    "model": "simulated",
                    "api_key_env": "SIM_KEY",
                    "agents": {
                        "kb_responder": {"base_url": sim.base_url},
                        "qa_generator": {"base_url": closed},
                        "qa_judge": {
                            "model": "larger",
                            "endpoints": [
                                {"name": "guarded", "base_url": guarded.base_url},
                                {"name": "judge", "base_url": sim.base_url},
                                {"name": "keyless", "base_url": closed, "api_key_env": "NOT_SET"},
                            ],
                        },
                    },
                },
                "tools": {"enabled": True},
                "knowledge": {
                    "path": "shipped",
                    "embedding": {"backend": "endpoint", "base_url": closed, "model": "e"},
                },
                "retrieval": {"mode": "dense"},
            },
        )
    text = report.text()
    at, nowhere = (url.removeprefix("http://").removesuffix("/v1") for url in (sim.base_url, closed))
    assert report.failed
    for where, words in {
        ("endpoints", "configuration"): "NOT_SET is not set",
        (f"endpoint {nowhere}", "reachable"): "cannot connect (Connection refused) | is the server running",
        (f"qa_generator at {nowhere}", "answer"): "was not asked",
        ("endpoint guarded", "reachable"): "its key was refused | set the variable named by api_key_env",
        ("qa_judge at guarded", "answer"): "the key was refused",
        ("knowledge.embedding", "usable"): "ConnectError",
        ("postgres", "reachable"): "there is no database no_such_test_",
    }.items():
        assert found[where][0] is Result.FAILED, (where, text)
        assert words in found[where][1], (where, found[where])
    for where, words in {
        (f"kb_responder at {at}", "tools"): "takes no tools (vector_db_search)",
        (f"qa_judge at {at}", "structured output"): "in words: the model has to keep to the schema",
    }.items():
        assert found[where][0] is Result.WARNING, (where, text)
        assert words in found[where][1], (where, found[where])
    assert found[f"kb_responder at {at}", "answer"][0] is Result.OK
    assert KEY not in text
    assert "another-key" not in text


@pytest.mark.parametrize(
    ("quirk", "result", "words"),
    [
        ({"json_schema_support": "json_object"}, Result.WARNING, "json_object"),
        (
            {"canned": [{"contains": '"json_schema"', "body": "{prose}"}]},
            Result.WARNING,
            "json_object: the model has to keep to the schema by itself (before: json_schema",
        ),
        ({"faults": {"bad_json": 1.0}}, Result.FAILED, "nothing that can be read (json_schema"),
        ({"verdict": {"score": 99}}, Result.FAILED, "score in the answer must be from 0 to 10"),
    ],
)
def test_structured_output_is_what_the_server_really_does(
    dsn: str, sim: SimulatedEndpoint, quirk: dict[str, Any], result: Result, words: str
) -> None:
    message = {"role": "assistant", "content": "Tuesday comes after Monday, as I said."}
    prose = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "model": "m"}
    canned = [{**one, "body": prose} for one in quirk.get("canned", ())]
    sim.configure(**quirk | ({"canned": canned} if canned else {}))
    found, report = checked(dsn, {"llm": openai(sim, agents={"qa_judge": {"base_url": sim.base_url}})})
    (row,) = [value for (_, check), value in found.items() if check == "structured output"]
    assert row[0] is result, report.text()
    assert words in row[1]


def test_context_lengths_are_held_against_the_longest_call(dsn: str, sim: SimulatedEndpoint) -> None:
    sim.configure(listed={"max_model_len": 1500})
    found, _ = checked(dsn, {"llm": openai(sim), "run": {**RUN, "n_turns": 2}})
    long, _ = checked(dsn, {"llm": openai(sim), "run": {**RUN, "n_turns": 30}})
    row, later = (
        next(v for (who, c), v in f.items() if c == "context length" and "qa_j" in who) for f in (found, long)
    )
    assert row[0] in (Result.OK, Result.WARNING)
    assert later[0] is Result.FAILED
    assert "simulated has 1500 tokens, and the longest call may take about" in later[1]
    assert "lower run.max_turns" in later[1]


def test_a_web_page_for_a_list_of_models_has_its_remedy(dsn: str) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<html><title>Log in</title></html>"
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        llm = {"backend": "openai", "model": "m", "base_url": f"http://127.0.0.1:{server.server_port}/v1"}
        found, report = checked(dsn, {"llm": llm}, timeout_s=3.0)
        server.shutdown()
    (row,) = [value for (_, check), value in found.items() if check == "models"]
    assert "gives no list of its models" in row[1]
    assert "| base_url must be the address up to and including /v1, unless" in row[1], report.text()
    assert report.failed


def test_it_ends_in_time_when_servers_hang(dsn: str, sim: SimulatedEndpoint) -> None:
    sim.configure(faults={"hang": 1.0})
    started = time.monotonic()
    found, report = checked(dsn, {"llm": openai(sim)}, timeout_s=1.5)
    assert time.monotonic() - started < 20
    assert found["postgres", "version"][0] is Result.OK
    (late,) = [row for row in report.rows if row.result is Result.FAILED]
    assert "did not come to an end within 1.5 s" in late.finding


def test_no_password_is_shown_of_a_database_that_is_not_there(sim: SimulatedEndpoint) -> None:
    closed = f"postgresql://u:s3cret-pass@127.0.0.1:{free_port()}/db"
    found, report = checked(closed, {"llm": openai(sim)}, postgres=PostgresConfig(connect_timeout_s=2))
    assert found["postgres", "reachable"][0] is Result.FAILED
    assert "s3cret" not in report.text() + report.markdown()


def test_the_command_takes_recipes_and_run_configs(
    dsn: str, sim: SimulatedEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("DLGFORGE_POSTGRES_DSN", dsn)
    recipe = tmp_path / "mine.yaml"
    llm = f"backend: openai, model: simulated, base_url: '{sim.base_url}'"
    recipe.write_text(f"run: {{target_languages: [en]}}\nllm: {{{llm}}}\n")
    assert preflight.main([str(recipe)]) == 0
    assert "qa_judge at" in capsys.readouterr().out
    config = tmp_path / "job.yaml"
    config.write_text(f"resources: {{llm: {{config: {{{llm}, api_key_env: NOT_SET}}}}}}\n")
    sim.configure(api_key=KEY)
    assert preflight.main([str(config)]) == 1
    assert "it wants a key and none is set" in capsys.readouterr().out
    assert preflight.main([str(tmp_path / "none.yaml")]) == 1
    assert "is no file; name a recipe" in capsys.readouterr().err


def test_the_job_keeps_the_table_and_runs_leave_the_check_out(
    dsn: str, sim: SimulatedEndpoint, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    (tmp_path / "small.yaml").write_text("run: {total_samples: 1, target_languages: [en], n_turns: 1}\n")
    definitions = build_definitions(str(tmp_path))
    config = {
        "resources": {
            "store": {"config": {"postgres": {"dsn": dsn}}},
            "small_llm": {"config": {"backend": "openai", "model": "m", "base_url": sim.base_url}},
        }
    }

    def run(job: str) -> dg.ExecuteInProcessResult:
        made = definitions.resolve_job_def(f"{job}_small")
        return made.execute_in_process(config, instance=instance, raise_on_error=False)

    sim.configure(api_key=KEY)
    result = run("check_endpoints")
    assert not result.success
    (event,) = result.get_asset_check_evaluations()
    assert not event.passed
    assert "**failed**" in str(event.metadata["table"].value)
    sim.configure(api_key="")
    ops = {node.name for node in definitions.resolve_job_def("generate_dialogues_small").nodes}
    assert "small__dialogue_checks" in ops
    assert "small__endpoint_checks" not in ops
    # Materialized from its page, an asset comes with all its checks: ours makes no call then.
    everything = definitions.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection={dg.AssetKey(["small", name]) for name in ("seed_topics", "dialogues")},
        asset_check_selection={dg.AssetCheckKey(dg.AssetKey(["small", "dialogues"]), "endpoints_ready")},
    )
    sim.reset()
    made = everything.execute_in_process(config, instance=instance, raise_on_error=False)
    assert made.success
    assert not made.get_asset_check_evaluations()
    assert sim.stats()["calls"] == 3


def test_tools_of_a_recipe_are_declared_and_called_for(dsn: str, sim: SimulatedEndpoint) -> None:
    sim.configure(api_key=KEY, tool_calls="once")
    own: dict[str, Any] = {
        "name": "hours",
        "description": "Tells the hours.",
        "table": [{"result": "9 to 5"}],
    }
    tools: dict[str, Any] = {"enabled": True, "functions": [own]}
    found, report = checked(dsn, {"llm": openai(sim), "tools": tools})
    assert not report.failed, report.text()
    assert found["tools.functions", "declared"] == (Result.OK, "hours | ")
    at = sim.base_url.removeprefix("http://").removesuffix("/v1")
    assert found[f"kb_responder at {at}", "tools"][1].startswith("simulated called hours")
    own["http"] = {"url": "http://127.0.0.1:9/", "headers_env": {"X-Key": "NOT_SET"}}
    del own["table"]
    found, _ = checked(dsn, {"llm": openai(sim), "tools": tools})
    result, text = found["tools.functions", "declared"]
    assert result is Result.FAILED
    assert "the value of NOT_SET, which is not set" in text
