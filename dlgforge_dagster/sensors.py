"""The sensor of a seed folder: new files become partitions and runs."""

# No `from __future__ import annotations` here: Dagster reads the annotations of sensors as types.

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import dagster as dg

from dlgforge_core.common.secrets import shown_address
from dlgforge_core.config import SeedsConfig, validate
from dlgforge_core.config.asset_names import DIALOGUES, SEED_TOPICS
from dlgforge_core.errors import ConfigError, SeedError
from dlgforge_core.planning.seed_folder import (
    SEED_FOLDER_ENV,
    SeedFile,
    list_seed_files,
    read_seed_batches,
    read_seed_bytes,
    same_batch,
    seed_location,
)
from dlgforge_core.planning.seed_languages import topics_for
from dlgforge_core.planning.seeds import SeedBatch, batch_name, parse_seed_batch
from dlgforge_dagster.assets.seed_topics import seed_problem
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.jobs import Jobs
from dlgforge_dagster.partitions import dialogue_key
from dlgforge_dagster.resources import StoreResource
from dlgforge_dagster.run_config import RUN_CONFIG_ENV, read_run_config

INTERVAL_S = max(1, int(os.environ.get("DLGFORGE_SENSOR_INTERVAL_S", "30")))
# Files looked into in one tick, which has a minute; the rest follow in the next ones.
_FILES_A_TICK = 50


@dataclass
class _Seen:
    """What the cursor knows of one file: its state at the last tick, and the digest that was acted on."""

    state: str
    digest: str = ""
    done: bool = False
    twin: bool = False  # it was told that another file would be the same seed batch


_GONE = "gone"  # the state of a file that was there at the last tick: it may just be replaced


def build_new_seed_batches(dataset: DatasetSpec, jobs: Jobs) -> dg.SensorDefinition:
    """Return the sensor that turns new seed files of a dataset into partitions and runs.

    The default dataset watches the folder in DLGFORGE_SEED_FOLDER, another one its recipe's
    `seeds.path` where the recipe says `watch: true`.
    """
    watches = not dataset.name or dataset.recipe.watch
    running, stopped = dg.DefaultSensorStatus.RUNNING, dg.DefaultSensorStatus.STOPPED

    @dg.sensor(
        name=dataset.label("new_seed_batches"),
        job=jobs.partition,
        minimum_interval_seconds=INTERVAL_S,
        default_status=running if watches else stopped,
        description="New or changed files in the seed folder ("
        + (f"seeds.path of the recipe {dataset.name}" if dataset.name else f"{SEED_FOLDER_ENV}")
        + ": a path or any fsspec address) become partitions, and a run for each of their languages. Without "
        "a folder it only keeps the partitions of the shipped topics. Each content makes runs once."
        + ("" if dataset.name else f" Run config of the runs: the YAML file in {RUN_CONFIG_ENV}."),
    )
    def new_seed_batches(
        context: dg.SensorEvaluationContext, store: StoreResource
    ) -> dg.SensorResult | dg.SkipReason:
        location = dataset.recipe.seeds.path if dataset.name else seed_location("")
        if not location:
            return _shipped(context, dataset)
        try:
            run_config = {} if dataset.name else _run_config()
            seeds = _seeds_of(dataset, run_config)
            files = list_seed_files(location)
        except (ConfigError, SeedError) as error:
            return dg.SkipReason(str(error))
        look = _Look(dataset, location, seeds, run_config)
        look.over(files, _read_cursor(context.cursor))
        return _result(context, store, look, files)

    return new_seed_batches


class _Look:
    """One tick's look at the files of a folder, and what comes of it.

    Each content makes runs once: the run keys are made of the content's digest.
    """

    def __init__(
        self, dataset: DatasetSpec, location: str, seeds: SeedsConfig, run_config: Mapping[str, Any]
    ) -> None:
        self.dataset = dataset
        self.location = location
        self._seeds = seeds
        self._run_config = run_config
        self.cursor: dict[str, _Seen] = {}
        self.gone: set[str] = set()
        """Seed batches of files that are gone since two ticks."""
        self.requests: list[dg.RunRequest] = []
        self.read: list[SeedBatch] = []
        self.waiting: list[str] = []
        self.problems: dict[str, str] = {}
        """By file what is wrong with it."""
        self.twins: Mapping[str, str] = {}
        self._looked_into = 0

    def over(self, files: Sequence[SeedFile], before: Mapping[str, _Seen]) -> None:
        """Look at every file; `before` is what the last tick has left."""
        self.twins = same_batch(files)
        for file in files:
            seen = before.get(file.name)
            if seen is None or seen.state != file.state:
                # New or changed: it may be half written. Wait until it is the same for two ticks.
                self.cursor[file.name] = _Seen(file.state, seen.digest if seen else "")
                self.waiting.append(f"{file.name}: waiting for it to be written whole")
            elif twin := self.twins.get(file.name):
                self.cursor[file.name] = _Seen(file.state, seen.digest, twin=True)
                if not seen.twin:
                    self.problems[file.name] = twin
            elif seen.done or self._looked_into >= _FILES_A_TICK:
                self.cursor[file.name] = seen
            else:
                self._into(file, seen)
        self.gone = _gone(before, self.cursor, files)

    def _into(self, file: SeedFile, seen: _Seen) -> None:
        """Read a file that has changed and is written whole, and ask for its runs."""
        self._looked_into += 1
        digest, batch, problem = _read(self.location, file, self._seeds)
        self.cursor[file.name] = _Seen(file.state, digest or seen.digest, done=True)
        if batch is not None and digest != seen.digest:
            self.read.append(batch)
            requests = list(_requests(self.dataset, batch, digest, self._run_config))
            self.requests += requests
            problem = "" if requests else _no_language(self.dataset, file, batch, self._run_config)
        if problem:
            self.problems[file.name] = problem


def _result(
    context: dg.SensorEvaluationContext, store: StoreResource, look: _Look, files: Sequence[SeedFile]
) -> dg.SensorResult:
    """Log and save what a look has found; returns what Dagster is to do."""
    dataset = look.dataset
    for name, problem in look.problems.items():
        again = "" if name in look.twins else "\nIt is not tried again until it changes."
        context.log.error(problem + again)
    gone = look.gone | (_known(context, dataset) & _shipped_names() - {file.batch for file in files})
    run_store = store.run_store(dataset.name) if gone or look.read else None
    if run_store is not None and gone:
        context.log.info(f"there is no seed file for {', '.join(sorted(gone))} any more: former seeds now")
        run_store.forget_seed_batches(gone)
    if run_store is not None and look.read:
        # Before runs are asked for: of a file that came back as it was none would read it.
        run_store.save_seed_batches(look.read)
    notes = "\n".join([*look.problems.values(), *look.waiting][:20])
    nothing_new = f"nothing new in {shown_address(look.location)}"
    return dg.SensorResult(
        run_requests=look.requests,
        skip_reason=None if look.requests else notes or nothing_new,
        cursor=_write_cursor(look.cursor),
        dynamic_partitions_requests=[
            *_added(context, dataset, [batch.name for batch in look.read]),
            *_deleted(context, dataset, gone),
        ],
        # On the page of `seed_files`: of a tick that asks for runs no reason is shown.
        asset_events=[seed_problem(dataset, name, problem) for name, problem in look.problems.items()],
    )


def _gone(before: Mapping[str, _Seen], cursor: dict[str, _Seen], files: Sequence[SeedFile]) -> set[str]:
    """Return the seed batches of files that are gone since two ticks; others are remembered in `cursor`."""
    gone = set()
    for name in before.keys() - cursor.keys():
        if before[name].state == _GONE:
            gone.add(batch_name(name))
        else:
            cursor[name] = _Seen(_GONE, before[name].digest)
    return gone - {file.batch for file in files}


def _known(context: dg.SensorEvaluationContext, dataset: DatasetSpec) -> set[str]:
    """Return the seed batches that are partitions."""
    return set(context.instance.get_dynamic_partitions(dataset.partitions.batches))


def _added(
    context: dg.SensorEvaluationContext, dataset: DatasetSpec, names: Collection[str]
) -> list[dg.AddDynamicPartitionsRequest]:
    known = _known(context, dataset) if names else set()
    new = [name for name in names if name not in known]
    return [dataset.partitions.seed_batches.build_add_request(new)] if new else []


def _deleted(
    context: dg.SensorEvaluationContext, dataset: DatasetSpec, names: Collection[str]
) -> list[dg.DeleteDynamicPartitionsRequest]:
    """Partitions that nothing stands behind any more: a backfill of all would ask for them."""
    old = sorted(_known(context, dataset) & set(names)) if names else []
    return [dataset.partitions.seed_batches.build_delete_request(old)] if old else []


@cache
def _shipped_names() -> frozenset[str]:
    """Return the seed batches that are partitions while no folder is watched."""
    return frozenset(batch.name for batch in read_seed_batches("").batches)


def _shipped(context: dg.SensorEvaluationContext, dataset: DatasetSpec) -> dg.SensorResult | dg.SkipReason:
    folder = "seeds.path" if dataset.name else SEED_FOLDER_ENV
    added = _added(context, dataset, sorted(_shipped_names()))
    if not added:
        return dg.SkipReason(f"{folder} names no folder to watch")
    return dg.SensorResult(
        skip_reason=f"{folder} names no folder to watch; the shipped topics are partitions now",
        dynamic_partitions_requests=added,
    )


def _seeds_of(dataset: DatasetSpec, run_config: Mapping[str, Any]) -> SeedsConfig:
    """Return how `seed_topics` of the runs reads files. Raises ConfigError."""
    of_seeds = run_config.get("ops", {}).get(dataset.op(SEED_TOPICS), {}).get("config", {})
    data = {**dataset.recipe.seeds.model_dump(), **of_seeds}
    return validate(SeedsConfig, data, f"ops.{dataset.op(SEED_TOPICS)}.config")


def _read(location: str, file: SeedFile, config: SeedsConfig) -> tuple[str, SeedBatch | None, str]:
    """Digest of the content, the batch in it, and what is wrong when there is none."""
    try:
        data = read_seed_bytes(location, file)
        batch = parse_seed_batch(file.name, data, label=file.name, config=config)
    except SeedError as error:
        return "", None, str(error)
    return hashlib.sha256(batch.digest.encode()).hexdigest()[:16], batch, ""


def _requests(
    dataset: DatasetSpec, batch: SeedBatch, digest: str, run_config: Mapping[str, Any]
) -> Iterator[dg.RunRequest]:
    fallback = _run_of(dataset, run_config).get("fallback_language", dataset.recipe.run.fallback_language)
    for language in _wanted(dataset, run_config):
        if topics_for(batch, language, fallback):
            yield dg.RunRequest(
                run_key=f"{batch.name}:{language}:{digest}",
                partition_key=dialogue_key(language, batch.name),
                run_config=run_config,
                tags={"dlgforge/seed_digest": digest},
            )


def _run_of(dataset: DatasetSpec, run_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the run config says under `run` of `dialogues`."""
    of_dialogues = run_config.get("ops", {}).get(dataset.op(DIALOGUES), {})
    run: Mapping[str, Any] = of_dialogues.get("config", {}).get("run", {})
    return run


def _wanted(dataset: DatasetSpec, run_config: Mapping[str, Any]) -> list[str]:
    """Return the languages that runs are asked for."""
    asked = _run_of(dataset, run_config).get("target_languages") or dataset.partitions.languages
    return [language for language in dataset.partitions.languages if language in asked]


def _no_language(
    dataset: DatasetSpec, file: SeedFile, batch: SeedBatch, run_config: Mapping[str, Any]
) -> str:
    wanted = ", ".join(_wanted(dataset, run_config)) or "none that the run config asks for"
    return (
        f"{file.name} has topics in {', '.join(batch.languages)}; the partitions' languages are {wanted}: "
        "there is nothing to make of it"
    )


def _run_config() -> Mapping[str, Any]:
    """Return what the runs are configured with; what belongs to assets they do not run is left out.

    Raises ConfigError.
    """
    config = read_run_config()
    known = (SEED_TOPICS, DIALOGUES, "dialogue_checks")
    ops = {name: value for name, value in (config.get("ops") or {}).items() if name in known}
    return {**config, "ops": ops}


def _read_cursor(text: str | None) -> dict[str, _Seen]:
    data = json.loads(text) if text else {}
    return {name: _Seen(*values) for name, values in data.items()}


def _write_cursor(files: Mapping[str, _Seen]) -> str:
    """Only of files that are there, or were a tick ago: bounded by the folder."""
    return json.dumps({name: [seen.state, seen.digest, seen.done, seen.twin] for name, seen in files.items()})
