"""The assistant's tool calls through a real vLLM server, with its tool parser and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlgforge_core.config import JudgeConfig, KnowledgeConfig, ToolsConfig
from dlgforge_core.knowledge.indexing import index_knowledge
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.serving.vllm_provisioner import VllmManagedProvisioner
from dlgforge_core.store.run_store import RunStore
from tests.support.runs import MODEL, planned, spec, work
from tests.vllm.servers import RAY, settings

pytestmark = pytest.mark.timeout(600)

PARSER = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]


@pytest.mark.parametrize(
    "parser", [pytest.param(PARSER, marks=pytest.mark.nightly), []], ids=["parser", "no_parser"]
)
def test_tool_calls(tool_llama: Path, store: RunStore, tmp_path: Path, parser: list[str]) -> None:
    (tmp_path / "bread.md").write_text("# Bread\n\nKnead the dough for ten minutes, until it is smooth.\n")
    index_id = index_knowledge(store.database, "", KnowledgeConfig(path=str(tmp_path))).index_id
    run = planned(
        store,
        4,
        judge=JudgeConfig(mode="off"),
        tools=ToolsConfig(enabled=True),
        index_id=index_id,
        patience_s=60.0,
    )
    server = settings(
        tool_llama,
        served_model_name=MODEL,
        max_model_len=4096,
        extra_args=["--enforce-eager", "--dtype", "float32", *parser],
    )
    with RaySession(RAY) as session:
        servers = VllmManagedProvisioner(server, session)
        try:
            work(spec(store, run, *servers.start(lambda line: None)))
        finally:
            servers.stop()
    turns = [turn for dialogue in store.dialogues(run.run_id) for turn in dialogue.turns]
    assert len(turns) == 8
    for turn in turns:
        events = turn.details.tools
        if parser:
            assert [(event.name, event.arguments) for event in events] == [
                ("vector_db_search", {"query": "knead the dough"})
            ]
            assert "> Knead the dough for ten minutes" in events[0].result
        else:
            # The server refuses to be offered tools; its answers come all the same.
            assert events == ()
        assert "<tool_call>" not in turn.assistant
