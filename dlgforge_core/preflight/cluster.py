"""Ray before a run: which cluster the run would use, and whether it has room for it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path

from dlgforge_core.common.cpus import available_cpus
from dlgforge_core.config import LlmConfig, RayConfig, Recipe
from dlgforge_core.config.backends import backend_of
from dlgforge_core.database.dsn import ResolvedDsn
from dlgforge_core.errors import ConfigError, RayError, StoreError
from dlgforge_core.generation.prepare import callers_of_run
from dlgforge_core.generation.worker_thread import KnowledgeAccess
from dlgforge_core.knowledge.endpoints import embedding_endpoint, rerank_endpoint
from dlgforge_core.preflight.knowledge import searches_by_embeddings
from dlgforge_core.preflight.report import Row, failed, ok, warning
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.cluster.survey import Survey, survey
from dlgforge_core.runtime.distributed.bootstrap import check_reach, worker_addresses
from dlgforge_core.runtime.serving.vllm_provisioner import REPLICA_CPUS

Reporter = Callable[[Row], None]


def check_ray(
    recipe: Recipe,
    llm: LlmConfig,
    ray: RayConfig,
    env: Mapping[str, str],
    dsn: Callable[[], ResolvedDsn],
    report: Reporter,
    *,
    starts_servers: bool,
) -> None:
    """Report on the cluster that a run would use; nothing is started, and nothing connected.

    `starts_servers`: some calls go to servers that a run starts.
    """
    serves = starts_servers and backend_of(llm.backend).serves_on_ray
    judge = recipe.judge
    distributed = recipe.run.distributed.enabled or bool(judge.mode == "offline" and judge.distributed)
    if not serves and not distributed:
        report(ok("ray", "use", "is not used: run.distributed.enabled is false, and no servers run on it"))
        return
    try:
        found = _check(recipe, llm, ray, env, report, serves=serves, distributed=distributed)
        if found is not None and distributed:
            report(_reach(recipe, llm, found, dsn()))
    except StoreError:
        return  # told of Postgres
    except RayError as error:
        cause, _, remedy = str(error).partition("; ")
        report(failed("ray", "reachable", cause, remedy))


def _check(
    recipe: Recipe,
    llm: LlmConfig,
    ray: RayConfig,
    env: Mapping[str, str],
    report: Reporter,
    *,
    serves: bool,
    distributed: bool,
) -> Survey | None:
    import ray as ray_library

    notes: list[str] = []
    address = RaySession(ray, progress=notes.append, env=env).find()
    for note in notes:
        report(warning("ray", "reachable", note, "set ray.address or RAY_ADDRESS to use it"))
    actors = recipe.run.distributed.spawn if distributed else None
    workers = ray.workers.replicas if actors is not None and actors.workers else 0
    cpus = workers * ray.workers.num_cpus
    gpus = workers * ray.workers.num_gpus
    if actors is not None and actors.coordinator:
        cpus, gpus = cpus + ray.coordinator.num_cpus, gpus + ray.coordinator.num_gpus
    on_one = max(ray.workers.num_gpus if workers else 0.0, llm.vllm.num_gpus_per_replica if serves else 0.0)
    if serves:
        cpus += REPLICA_CPUS * llm.vllm.replicas
        gpus += llm.vllm.replicas * llm.vllm.num_gpus_per_replica
    asked = f"a run asks for {cpus:g} CPU and {gpus:g} GPU"
    if address is None:
        report(ok("ray", "reachable", f"a run starts a local cluster (Ray {ray_library.__version__})"))
        report(_local_resources(gpus, asked))
        return None
    if address.startswith("ray://"):
        report(ok("ray", "reachable", f"{address}; its version and resources show once a run has connected"))
        return None
    found = survey(address)
    report(ok("ray", "reachable", f"{address}, {len(found.nodes)} nodes"))
    report(_version(found, ray_library.__version__))
    report(_resources(found, cpus, gpus, on_one, asked))
    return found


def _reach(recipe: Recipe, llm: LlmConfig, found: Survey, dsn: ResolvedDsn) -> Row:
    """Return whether workers on the cluster's other machines reach what they need."""
    keyless = {"api_key_env": ""}  # whether keys are set is told of the knowledge
    embedding = recipe.knowledge.embedding.model_copy(update=keyless)
    rerank = recipe.retrieval.rerank.model_copy(update=keyless)
    knowledge = KnowledgeAccess(
        embedding_endpoint(embedding) if searches_by_embeddings(recipe) else None,
        rerank_endpoint(rerank) if recipe.knowledge.path else None,
    )
    try:
        check_reach(
            *(found, dsn.dsn, dsn.source.value, llm, callers_of_run(recipe.generation, llm)),
            recipe.run.distributed.spawn,
            addresses=worker_addresses(recipe.tools, knowledge),
        )
    except ConfigError as error:
        cause, _, remedy = str(error).rpartition(": ")
        return failed("ray", "reach", cause, remedy)
    return ok("ray", "reach", "workers reach Postgres and every address, as far as their names tell")


def _version(found: Survey, ours: str) -> Row:
    python = platform.python_version()
    if found.ray_version and found.ray_version != ours:
        finding = f"the cluster has Ray {found.ray_version}, and this environment {ours}"
        return failed("ray", "version", finding, "install the same version of Ray in both")
    if found.python_version and found.python_version.split(".")[:2] != python.split(".")[:2]:
        finding = f"the cluster has Python {found.python_version}, and this environment {python}"
        return failed("ray", "version", finding, "use the same minor version of Python in both")
    return ok("ray", "version", f"Ray {found.ray_version or 'unknown'}, as here")


def _resources(found: Survey, cpus: float, gpus: float, on_one: float, asked: str) -> Row:
    there = f"the cluster has {found.total('CPU'):g} CPU and {found.total('GPU'):g} GPU"
    if cpus > found.total("CPU") or gpus > found.total("GPU") or on_one > found.largest("GPU"):
        largest = f", {found.largest('GPU'):g} of these on one node" if gpus else ""
        return warning(
            "ray",
            "resources",
            f"{asked}; {there}{largest}",
            "unless the cluster grows by itself, lower ray.workers.replicas, llm.vllm.replicas or "
            "llm.vllm.num_gpus_per_replica, or add nodes",
        )
    return ok("ray", "resources", f"{asked}; {there}")


def _local_resources(gpus: float, asked: str) -> Row:
    here = local_gpus()
    there = f"this machine has {available_cpus()} CPU and {here} GPU"
    if gpus > here:
        remedy = (
            "set ray.workers.num_gpus and llm.vllm.num_gpus_per_replica to 0, or ray.address to a cluster"
        )
        return failed("ray", "resources", f"{asked}; {there}", remedy)
    return ok("ray", "resources", f"{asked}; {there}")


def local_gpus() -> int:
    """How many GPUs of NVIDIA's this machine shows."""
    return sum(path.name.removeprefix("nvidia").isdigit() for path in Path("/dev").glob("nvidia*"))
