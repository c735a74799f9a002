"""The assistant's tool calls through a real vLLM server, with its tool parser and without.

The model is tiny and follows a script, see `tool_llama`. That the tools reach its chat template, that its
text is read as calls, and that results reach it again, is the server's doing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import orjson
import pytest

from dlgforge_core.config import JudgeConfig, KnowledgeConfig, LlmConfig, ToolsConfig, read_recipe
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.generation.prepare import PreparedRun, prepare_run
from dlgforge_core.generation.worker_thread import WorkerThread
from dlgforge_core.knowledge.indexing import index_knowledge
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.planning.seed_folder import read_seed_batches
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.serving.vllm_provisioner import VllmManagedProvisioner
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.tool_events import ToolEvent, ToolProblem
from tests.support.dialogues import lines
from tests.support.runs import MODEL, planned, spec, work
from tests.support.waiting import wait_until
from tests.vllm.servers import RAY, ROOT, settings

pytestmark = pytest.mark.timeout(600)

PARSER = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
OF_THE_PARSER = "chatcmpl-tool-"
"""How the ids of calls begin that vLLM has read; those that are read here are call_0, call_1, ..."""


def served(tool_llama: Path, *arguments: str) -> Iterator[tuple[Endpoint, ...]]:
    server = settings(
        tool_llama,
        served_model_name=MODEL,
        max_model_len=8192,
        extra_args=["--enforce-eager", "--dtype", "float32", *arguments],
    )
    with RaySession(RAY) as session:
        servers = VllmManagedProvisioner(server, session)
        try:
            yield tuple(servers.start(lambda line: None))
        finally:
            servers.stop()


@pytest.fixture(scope="module")
def parsing(tool_llama: Path) -> Iterator[tuple[Endpoint, ...]]:
    """Return a server with a tool parser."""
    yield from served(tool_llama, *PARSER)


@pytest.fixture
def not_parsing(tool_llama: Path) -> Iterator[tuple[Endpoint, ...]]:
    """Return a server without one."""
    yield from served(tool_llama)


def searching(store: RunStore, folder: Path) -> PreparedRun:
    """Return a run whose assistant may search a document."""
    (folder / "bread.md").write_text("# Bread\n\nKnead the dough for ten minutes, until it is smooth.\n")
    index_id = index_knowledge(store.database, "", KnowledgeConfig(path=str(folder))).index_id
    tools, judge = ToolsConfig(enabled=True), JudgeConfig(mode="off")
    return planned(store, 4, judge=judge, tools=tools, index_id=index_id, patience_s=60.0)


def events_of(dialogue: Dialogue) -> list[ToolEvent]:
    return [event for turn in dialogue.turns for event in turn.details.tools]


def test_searches(parsing: tuple[Endpoint, ...], store: RunStore, tmp_path: Path) -> None:
    run = searching(store, tmp_path)
    work(spec(store, run, *parsing))
    turns = [turn for dialogue in store.dialogues(run.run_id) for turn in dialogue.turns]
    assert len(turns) == 8
    for turn in turns:
        (event,) = turn.details.tools
        assert (event.name, event.arguments) == ("vector_db_search", {"query": "knead the dough"})
        assert event.call_id.startswith(OF_THE_PARSER)
        assert "> Knead the dough for ten minutes" in event.result
        assert "<tool_call>" not in turn.assistant


@pytest.mark.nightly
def test_searches_without_a_parser(
    not_parsing: tuple[Endpoint, ...], store: RunStore, tmp_path: Path
) -> None:
    run = searching(store, tmp_path)
    work(spec(store, run, *not_parsing))
    turns = [turn for dialogue in store.dialogues(run.run_id) for turn in dialogue.turns]
    assert len(turns) == 8
    for turn in turns:
        # The server refuses to be offered tools; its answers come all the same.
        assert turn.details.tools == ()
        assert "<tool_call>" not in turn.assistant


def library(store: RunStore) -> PreparedRun:
    """Return the run of the recipe `library` with the model of the server."""
    recipe = read_recipe(ROOT / "examples/recipes/library.yaml")
    llm = LlmConfig.model_validate({**recipe.llm.model_dump(exclude={"model"}), "model": MODEL})
    with chdir(ROOT):
        batches = read_seed_batches(recipe.seeds.path).batches
    store.save_seed_batches(batches)
    return prepare_run(store, recipe.generation, llm, batches)


def test_the_library_lends_is_stopped_and_goes_on(
    parsing: tuple[Endpoint, ...], store: RunStore, tmp_path: Path
) -> None:
    run = library(store)
    first = WorkerThread(spec(store, run, *parsing), lambda: list(parsing))
    first.start()
    try:
        wait_until(lambda: store.progress(run.run_id).turns >= 2, 60, "turns are made")
    finally:
        first.stop("the test wants to resume")
        assert first.wait(20)
    before = {key: turn for one in store.dialogues(run.run_id) for key, turn in _turns(one).items()}
    work(spec(store, library(store), *parsing))
    dialogues = list(store.dialogues(run.run_id))
    assert len(dialogues) == 8
    readers = [dialogue.turns[0].user.split("My card is ")[1][:2] for dialogue in dialogues]
    assert {*readers} == {"r1", "r2"}
    for dialogue, reader in zip(dialogues, readers, strict=True):
        assert dialogue.goal_verdict is not None
        assert dialogue.goal_verdict.met
        check_borrowed(dialogue) if reader == "r1" else check_reserved(dialogue)
        assert not any("tool_call" in turn.assistant for turn in dialogue.turns)
    after = {key: turn for one in dialogues for key, turn in _turns(one).items()}
    assert before.items() <= after.items()
    check_exported(dialogues, tmp_path)


def _turns(dialogue: Dialogue) -> dict[tuple[str, int], Any]:
    return {(dialogue.plan.dialogue_id, turn.index): turn.details.tools for turn in dialogue.turns}


def check_borrowed(dialogue: Dialogue) -> None:
    """Check the calls of who has a fine to pay, which vLLM has read."""
    found, account, refused, paid, lent, unknown, lacking = events = events_of(dialogue)
    assert all(event.call_id.startswith(OF_THE_PARSER) for event in events)
    assert [book["id"] for book in orjson.loads(found.result)] == ["b1"]
    assert orjson.loads(account.result)["fine"] == 2.5
    assert refused.error == "r1 has to pay a fine of 2.5 first"
    assert paid.changes == ({"op": "replace", "path": "/readers/r1/fine", "value": 0.0},)
    assert lent.changes == ({"op": "replace", "path": "/books/b1/lent_to", "value": "r1"},)
    assert unknown.problem is ToolProblem.UNKNOWN_TOOL
    assert "'reader_id' is a required property" in lacking.error
    assert dialogue.turns[0].details.call_rounds == (2, 1, 2)
    assert dialogue.final_state is not None
    assert dialogue.final_state["books"]["b1"]["lent_to"] == "r1"


def check_reserved(dialogue: Dialogue) -> None:
    """Check the calls of who waits for a book: one round is broken JSON, which vLLM gives as text."""
    eliot, austen, reserved = events_of(dialogue)
    assert [event.call_id for event in (eliot, austen)] == ["call_0", "call_1"]
    assert [orjson.loads(event.result)[0]["id"] for event in (eliot, austen)] == ["b3", "b2"]
    assert reserved.call_id.startswith(OF_THE_PARSER)
    assert orjson.loads(reserved.result) == {"position": 1}
    assert dialogue.final_state is not None
    assert dialogue.final_state["books"]["b3"]["reserved_by"] == ["r2"]


def check_exported(dialogues: list[Dialogue], folder: Path) -> None:
    """Check that the rows of the dataset hold the calls with their results."""
    write_dataset(dialogues, folder)
    rows = lines(folder / "data/openai_messages/train.jsonl")
    assert len(rows) == len(dialogues)
    for row, dialogue in zip(rows, dialogues, strict=True):
        called = [call["id"] for message in row["messages"] for call in message.get("tool_calls") or ()]
        answered = [message["tool_call_id"] for message in row["messages"] if message["role"] == "tool"]
        assert called == answered
        assert len(called) == len(events_of(dialogue))
        assert "lend_book" in [tool["function"]["name"] for tool in row["tools"]]
