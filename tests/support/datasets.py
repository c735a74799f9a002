"""Reading dataset folders with Hugging Face's own library, without any network."""

from pathlib import Path
from typing import Any

import pytest


def load_dataset(folder: Path, config: str | None, cache: Path) -> Any:
    """Return the splits of one configuration of a dataset folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        import datasets

        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        datasets.disable_progress_bars()
        return datasets.load_dataset(str(folder), config, cache_dir=str(cache))


def load(folder: Path, config: str, cache: Path) -> dict[str, int]:
    """Rows of each split."""
    return {split: rows.num_rows for split, rows in load_dataset(folder, config, cache).items()}
