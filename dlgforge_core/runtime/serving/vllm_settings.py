"""Settings of managed vLLM servers that no server could start or work with, found before anything starts."""

from __future__ import annotations

from collections.abc import Sequence

from dlgforge_core.config import VllmConfig
from dlgforge_core.errors import ConfigError

# What dlgforge sets itself; VLLM_API_KEY keeps the key out of argv.
_RESERVED = ("--api-key", "--host", "--port", "--uds", "--served-model-name", "--model", "--ssl-keyfile")
# Beginnings that are enough for vLLM's parser to know which one is meant.
_SECRET = {
    "--api-k": "--api-key, which dlgforge sets; leave it out",
    "--hf-t": "--hf-token, which every user of the node could read; set HF_TOKEN in the environment of the "
    "Ray nodes instead",
}
# What these options make of the GPUs depends on more than one server.
_ELSEWHERE = ("--nnodes", "--distributed-executor-backend", "--data-parallel-size-local")


def check_settings(config: VllmConfig) -> None:
    """Raise ConfigError for settings that no server could start or work with."""
    options = _options(config.extra_args)
    for option in options:
        for beginning, remedy in _SECRET.items():
            if option.startswith(beginning):
                raise ConfigError(f"llm.vllm.extra_args holds {remedy}")
        if option in _RESERVED:
            raise ConfigError(f"llm.vllm.extra_args holds {option}, which dlgforge sets; leave it out")
    gpus = config.num_gpus_per_replica
    if gpus > 1 and gpus != int(gpus):
        raise ConfigError(
            f"llm.vllm.num_gpus_per_replica = {gpus:g}: above 1, Ray gives whole GPUs only; set it to "
            f"{int(gpus)} or {int(gpus) + 1}"
        )
    if gpus == 0 or any(option in options for option in _ELSEWHERE):
        return
    _check_split(config, options)
    share = _number(options, ("--gpu-memory-utilization",), config.gpu_memory_utilization)
    if gpus < 1 and share > gpus:
        raise ConfigError(
            f"llm.vllm.num_gpus_per_replica = {gpus:g} lets Ray put {int(1 / gpus)} servers on one GPU, and "
            f"each would take llm.vllm.gpu_memory_utilization = {share:g} of its memory; set that to "
            f"{gpus:g} or less"
        )


def _check_split(config: VllmConfig, options: dict[str, str]) -> None:
    """Raise ConfigError when a server uses more GPUs than Ray reserves for it, or fewer."""
    gpus = config.num_gpus_per_replica
    tensor = _number(options, ("--tensor-parallel-size", "-tp"), config.tensor_parallel_size)
    copies = {
        "--pipeline-parallel-size": _number(options, ("--pipeline-parallel-size", "-pp"), 1),
        "--data-parallel-size": _number(options, ("--data-parallel-size", "-dp"), 1),
    }
    used = int(tensor)
    for size in copies.values():
        used *= int(size)
    if used == gpus or used <= 1 >= gpus:
        return
    settings = [f"llm.vllm.tensor_parallel_size = {config.tensor_parallel_size}"]
    if tensor != config.tensor_parallel_size:
        settings = [f"--tensor-parallel-size = {tensor:g} in llm.vllm.extra_args"]
    settings += [f"{option} = {size:g} there" for option, size in copies.items() if size != 1]
    uses = f"{' and '.join(settings)}: a server uses {used} {'GPU' if used == 1 else 'GPUs'}"
    reserved = f"llm.vllm.num_gpus_per_replica = {gpus:g}"
    if used > gpus:
        raise ConfigError(f"{uses}, and {reserved}; set it to {used}")
    raise ConfigError(
        f"{uses}, and {reserved} would leave {gpus - used:g} of them idle; set it to {used} and have more "
        f"llm.vllm.replicas, or split the model over {gpus:g} GPUs with llm.vllm.tensor_parallel_size"
    )


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """Options by name, as vLLM reads them: an underscore in a name is a hyphen, the last value wins."""
    found: dict[str, str] = {}
    name = ""
    for argument in arguments:
        if argument.startswith("-"):
            name, _, value = argument.partition("=")
            name = name.replace("_", "-")
            found[name] = value
        elif name and not found[name]:
            found[name] = argument
    return found


def _number(options: dict[str, str], names: Sequence[str], otherwise: float) -> float:
    for name in names:
        try:
            return float(options[name])
        except (KeyError, ValueError):  # not given, or not a number, which vLLM will say
            continue
    return otherwise
