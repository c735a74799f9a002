"""The embedded model's process: `python -m dlgforge_core.runtime.serving.embedded_server`.

Reads one line of JSON from standard input (model_path, alias, api_key, slots, context_tokens, threads),
serves the model on 127.0.0.1 at a port the kernel picks, writes `{"base_url": "http://127.0.0.1:<port>/v1"}`
to standard output once it is ready, and ends when its standard input does. Logs go to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

# Prompts of idle dialogues are kept in memory, to be taken up without being read again; this bounds them.
PROMPT_CACHE_MIB = 512
_LOG_WARNINGS = 2


def serve(settings: dict[str, Any]) -> Any:
    """Load the model and serve it; returns the running server. Raises RuntimeError when it cannot load."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["model_path"]
    params.model_alias = {settings["alias"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["api_key"]]
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["slots"] * settings["context_tokens"]
    params.fit_params = False  # the context is what was asked for, never less
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["threads"]
    params.use_jinja = True
    params.cache_prompt = True
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = _LOG_WARNINGS
    return xllamacpp.Server(params)


def main() -> None:
    """Serve until standard input ends."""
    line = sys.stdin.readline()
    if not line:
        sys.exit("no settings on standard input; this program is started by dlgforge")
    try:
        server = serve(json.loads(line))
    except RuntimeError as error:
        sys.exit(f"the model cannot be served: {error}")
    print(json.dumps({"base_url": f"{server.listening_address}/v1"}), flush=True)
    sys.stdin.read()
    os._exit(0)  # calls under way are of no use to anyone now: do not wait for them


if __name__ == "__main__":
    main()
