"""Have a real model make the dialogues of tests/support/recorded/run.yaml, and keep what it said.

python -m scripts.record_answers MODEL.gguf

The browser tests have the simulated endpoint say it again, for the pictures of the documentation. What was
made before an interruption is kept below `--folder`, and the next call goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlgforge_core.config import EmbeddedConfig
from dlgforge_core.database.database import Database
from dlgforge_core.database.embedded import embedded_dsn, release_embedded
from dlgforge_core.dialogue import Dialogue, Role
from dlgforge_core.knowledge.texts import chunk_texts
from dlgforge_core.runtime.serving.embedded_model import EmbeddedModelServer
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from scripts.demo import MODULE

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "tests" / "support" / "recorded" / "run.yaml"
ANSWERS = RUN.with_name("answers.json")
JOBS = ("preview_dialogues", "generate_dialogues")
CONTEXT_TOKENS = 3072


def main() -> int:
    """Return the exit code of the jobs."""
    parser = argparse.ArgumentParser(prog="python -m scripts.record_answers", description=__doc__)
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--folder", type=Path, default=ROOT / ".dlgforge" / "recording")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "dagster.yaml", folder)
    model = EmbeddedModelServer(EmbeddedConfig(model_path=str(given.model), context_tokens=CONTEXT_TOKENS))
    try:
        endpoint = model.start(1)
        env = {
            **os.environ,
            "DAGSTER_HOME": str(folder),
            "LLM_MODEL": given.model.stem,
            "OPENAI_BASE_URL": endpoint.base_url,
            "OPENAI_API_KEY": endpoint.api_key,
        }
        for job in JOBS:
            command = [str(Path(sys.executable).parent / "dagster"), "job", "execute", "-m", MODULE]
            code = subprocess.run([*command, "-j", job, "-c", str(RUN)], cwd=folder, env=env, check=False)
            if code.returncode:
                return code.returncode
    finally:
        model.stop()
    keep(folder / ".dlgforge", given.model.name)
    return 0


def keep(home: Path, model: str) -> None:
    """Write the finished dialogues of the run state below `home` to the file that is replayed."""
    store = RunStore(Database(embedded_dsn(home)))
    try:
        record = store.run()
        assert record is not None
        dialogues = [_recorded(store, one) for one in store.dialogues(Scope(run_id=record.run_id))]
    finally:
        release_embedded(home)
    content = {"model": model, "dialogues": dialogues}
    ANSWERS.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
    print(f"{len(dialogues)} dialogues are in {ANSWERS.relative_to(ROOT)}")


def _recorded(store: RunStore, dialogue: Dialogue) -> dict[str, Any]:
    return {"topic": dialogue.plan.topic.topic, "turns": list(_turns(store, dialogue))}


def _turns(store: RunStore, dialogue: Dialogue) -> Iterator[dict[str, Any]]:
    for turn in dialogue.turns:
        asked_from = [item.chunk_id for item in turn.details.evidence if item.given_to is Role.USER_SIMULATOR]
        with store.connection() as connection:
            texts = chunk_texts(connection, "", set(asked_from))
        verdict = turn.judgement.to_json() if turn.judgement is not None else None
        yield {
            "passage": next(iter(texts.values()), ""),
            "user": turn.user,
            "assistant": turn.assistant,
            "verdict": verdict,
        }


if __name__ == "__main__":
    sys.exit(main())
