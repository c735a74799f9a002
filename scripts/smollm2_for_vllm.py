"""Convert the packaged SmolLM2 weights (GGUF) to a folder that vLLM serves; run by `make demo-vllm`.

Runs in the environment of vLLM, which has transformers. Usage: GGUF-FILE FOLDER.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(gguf: Path, folder: Path) -> None:
    """Write model and tokenizer; does nothing when they are there."""
    if (folder / "config.json").exists():
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    writing = folder.with_name(folder.name + ".writing")  # whole or not at all
    model.save_pretrained(writing)
    tokenizer.save_pretrained(writing)
    writing.rename(folder)
    print(f"SmolLM2 for vLLM is in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
