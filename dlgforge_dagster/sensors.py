"""Sensors: new seed files become runs, and runs whose process died are taken up again."""

# No `from __future__ import annotations` here: Dagster reads the annotations of sensors as types.

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from dagster import DagsterRunStatus

from dlgforge_core.errors import SeedError
from dlgforge_core.seed_folder import (
    SEED_FOLDER_ENV,
    SeedFile,
    list_seed_files,
    read_seed_batches,
    read_seed_bytes,
    seed_place,
)
from dlgforge_core.seeds import SeedBatch, parse_seed_batch
from dlgforge_core.store.advisory import process_lock_is_free
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.assets import RUN_ID_TAG
from dlgforge_dagster.jobs import generate_dialogues, generate_partition
from dlgforge_dagster.partitions import (
    SEED_BATCHES,
    configured_languages,
    dialogue_key,
    seed_batch_partitions,
)
from dlgforge_dagster.resources import StoreResource

RUN_CONFIG_ENV = "DLGFORGE_RUN_CONFIG"
_INTERVAL_S = max(1, int(os.environ.get("DLGFORGE_SENSOR_INTERVAL_S", "30")))
# Files looked into in one tick, which has a minute; the rest follow in the next ones.
_FILES_A_TICK = 50


@dataclass
class _Seen:
    """What the cursor knows of one file: its state at the last tick, and the digest that was acted on."""

    state: str
    digest: str = ""
    done: bool = False


@dg.sensor(
    job=generate_partition,
    minimum_interval_seconds=_INTERVAL_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=f"New or changed files in the seed folder ({SEED_FOLDER_ENV}: a path or any fsspec address) "
    "become partitions, and a run for each of their languages. Without a folder it only keeps the partitions "
    f"of the shipped topics. Run config of the runs: the YAML file in {RUN_CONFIG_ENV}.",
)
def new_seed_batches(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Each content once: the run keys are made of the content's digest."""
    place = seed_place("")
    if not place:
        return _shipped(context)
    try:
        files = list_seed_files(place)
    except SeedError as error:
        return dg.SkipReason(str(error))
    before = _read_cursor(context.cursor)
    cursor: dict[str, _Seen] = {}
    requests: list[dg.RunRequest] = []
    names: list[str] = []
    notes: list[str] = []
    looked_into = 0
    run_config = _run_config()
    for file in files:
        seen = before.get(file.name)
        if seen is None or seen.state != file.state:
            # New or changed: it may be half written. Wait until it is the same for two ticks.
            cursor[file.name] = _Seen(file.state, seen.digest if seen else "")
            notes.append(f"{file.name}: waiting for it to be written whole")
        elif seen.done or looked_into >= _FILES_A_TICK:
            cursor[file.name] = seen
        else:
            looked_into += 1
            digest, batch, problem = _read(place, file)
            cursor[file.name] = _Seen(file.state, digest or seen.digest, done=True)
            if problem:
                notes.append(problem)
                context.log.error(f"{problem}\nIt is not tried again until it changes.")
            elif batch is not None and digest != seen.digest:
                names.append(batch.name)
                requests += _requests(batch, digest, run_config)
    new = [name for name in names if name not in context.instance.get_dynamic_partitions(SEED_BATCHES)]
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else "\n".join(notes[:20]) or f"nothing new in {place}",
        cursor=_write_cursor(cursor),
        dynamic_partitions_requests=[seed_batch_partitions.build_add_request(new)] if new else [],
    )


def _shipped(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    names = [batch.name for batch in read_seed_batches("")]
    new = [name for name in names if name not in context.instance.get_dynamic_partitions(SEED_BATCHES)]
    if not new:
        return dg.SkipReason(f"{SEED_FOLDER_ENV} names no folder to watch")
    return dg.SensorResult(
        skip_reason=f"{SEED_FOLDER_ENV} names no folder to watch; the shipped topics are partitions now",
        dynamic_partitions_requests=[seed_batch_partitions.build_add_request(new)],
    )


def _read(place: str, file: SeedFile) -> tuple[str, SeedBatch | None, str]:
    """Digest of the content, the batch in it, and what is wrong when there is none."""
    try:
        batch = parse_seed_batch(file.name, read_seed_bytes(place, file), label=file.name)
    except SeedError as error:
        return "", None, str(error)
    return hashlib.sha256(batch.digest.encode()).hexdigest()[:16], batch, ""


def _requests(batch: SeedBatch, digest: str, run_config: Mapping[str, Any]) -> Iterator[dg.RunRequest]:
    asked = run_config.get("ops", {}).get("dialogues", {}).get("config", {}).get("run", {})
    wanted = asked.get("target_languages") or configured_languages()
    for language in configured_languages():
        if language in batch.languages and language in wanted:
            yield dg.RunRequest(
                run_key=f"{batch.name}:{language}:{digest}",
                partition_key=dialogue_key(language, batch.name),
                run_config=run_config,
                tags={"dlgforge/seed_digest": digest},
            )


def _run_config() -> Mapping[str, Any]:
    """What the runs are configured with; what belongs to assets they do not run is left out."""
    path = os.environ.get(RUN_CONFIG_ENV, "").strip()
    config: dict[str, Any] = (yaml.safe_load(Path(path).read_text("utf-8")) or {}) if path else {}
    known = ("seed_topics", "dialogues", "dialogue_checks")
    ops = {name: value for name, value in (config.get("ops") or {}).items() if name in known}
    return {**config, "ops": ops}


def _read_cursor(text: str | None) -> dict[str, _Seen]:
    data = json.loads(text) if text else {}
    return {name: _Seen(*values) for name, values in data.items()}


def _write_cursor(files: Mapping[str, _Seen]) -> str:
    """Only of files that are there: bounded by the folder."""
    return json.dumps({name: [seen.state, seen.digest, seen.done] for name, seen in files.items()})


@dg.sensor(
    jobs=[generate_partition, generate_dialogues],
    minimum_interval_seconds=_INTERVAL_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Runs whose process died while it made dialogues are marked as failed. Where Dagster's run "
    "retries are on they start them again, else this sensor does. What was committed is not made again.",
)
def stale_runs(context: dg.SensorEvaluationContext, store: StoreResource) -> dg.SensorResult | dg.SkipReason:
    """A living process holds a lock on its run's id; it must be free at two ticks in a row."""
    run_store = store.run_store()
    suspects_before = set(json.loads(context.cursor or "[]"))
    started = context.instance.get_runs(
        dg.RunsFilter(statuses=[DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]), limit=200
    )
    suspects, requests = [], []
    for run in started:
        if RUN_ID_TAG not in run.tags or not _is_dead(context.instance, run, run_store):
            continue
        if run.run_id not in suspects_before:
            suspects.append(run.run_id)
            continue
        context.instance.report_run_failed(
            run, "The process of this run died. What it had committed is kept; a new run resumes it."
        )
        context.log.info(f"run {run.run_id} is dead")
        if (request := _resume(context.instance, run)) is not None:
            requests.append(request)
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else "every run that is under way has a living process",
        cursor=json.dumps(suspects),
    )


def _is_dead(instance: dg.DagsterInstance, run: dg.DagsterRun, store: RunStore) -> bool:
    """Whether the run was making dialogues, and the process that did is gone."""
    steps = instance.get_run_step_stats(run.run_id, ["dialogues"])
    making = any(step.start_time is not None and step.end_time is None for step in steps)
    return making and process_lock_is_free(store.dsn, store.config, run.run_id)


def _resume(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.RunRequest | None:
    """A run that goes on with a dead one; None when Dagster's own run retries do that."""
    if instance.run_retries_enabled or run.job_name not in (generate_partition.name, generate_dialogues.name):
        return None
    return dg.RunRequest(
        run_key=f"resume:{run.run_id}",
        job_name=run.job_name,
        run_config=run.run_config,
        partition_key=run.tags.get("dagster/partition"),
        tags={"dlgforge/resumes": run.run_id},
    )
