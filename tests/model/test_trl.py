"""TRL's own reading of the rows for its trainers, where `trl` and `transformers` are installed.

Neither is among the project's dependencies. Without PyTorch both come in a minute, and it is not needed here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlgforge_core.config import DatasetFilesConfig
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.writer import write_dataset
from tests.unit.test_preferences import several

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize("tools", [False, True])
def test_trl_takes_pairs_and_completions(tmp_path: Path, tools: bool) -> None:
    data_utils: Any = pytest.importorskip("trl.data_utils", reason="trl is not installed")
    transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")
    from datasets import load_dataset
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    tokenizer.chat_template = TEMPLATE
    folder = tmp_path / "rows"
    formats = ["dpo", "prompt_completion", "openai_messages"]
    saving = DatasetFilesConfig(formats=formats)
    write_dataset([several(tools=tools)], folder, saving=saving, columns=OptionalColumns(candidates=True))
    rows = {
        name: load_dataset(str(folder), name, cache_dir=str(tmp_path / "cache"))["train"] for name in formats
    }
    for name, there in rows.items():
        assert all(data_utils.is_conversational(row) for row in there), name
        assert all(data_utils.maybe_apply_chat_template(dict(row), tokenizer) for row in there), name
    pair = data_utils.maybe_apply_chat_template(dict(rows["dpo"][1]), tokenizer)
    assert pair["prompt"].endswith("<|user|>Why 1?<|assistant|>")
    assert pair["chosen"].endswith("Best.")
    assert pair["rejected"].endswith("Worse.")
    assert ('[lookup {"query": "b"}]' in pair["rejected"]) == tools
