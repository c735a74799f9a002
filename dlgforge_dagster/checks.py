"""Asset checks: of the dialogues in the run state, and of the dataset's files."""

# No `from __future__ import annotations` here: Dagster reads the annotations of checks as types.

import itertools
from collections.abc import Collection, Iterable, Iterator, Set
from typing import Any

import dagster as dg

from dlgforge_core.config import ChecksConfig, ConversationConfig, MarkupConfig, PromptsConfig, validate
from dlgforge_core.config.asset_names import DIALOGUE_DATASET, DIALOGUES
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.judging.results import judged_dialogues
from dlgforge_core.judging.store import latest_judging
from dlgforge_core.quality.checks import CHECKS, DROP_RATE, PartEnds, run_checks
from dlgforge_core.quality.collectors import COLLECTORS, GOALS_MET, PASS_RATE, CheckReport
from dlgforge_core.quality.findings import Findings, findings_of
from dlgforge_core.quality.leaks import phrases_of
from dlgforge_core.quality.stored_findings import kept_findings, questions_of
from dlgforge_core.store.results import Part, Scope
from dlgforge_core.store.run_records import RunRecord
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.diversity_check import build_diversity_check
from dlgforge_dagster.endpoint_check import build_endpoint_check
from dlgforge_dagster.judgement_checks import build_judgement_checks
from dlgforge_dagster.metadata.checks import check_metadata
from dlgforge_dagster.partitions import PARTITION, RANGE_START, dialogue_key
from dlgforge_dagster.tags import NOTHING_TAG, RUN_ID_TAG


def build_checks(dataset: DatasetSpec) -> list[dg.AssetChecksDefinition]:
    """Return the checks of a dataset."""
    return [
        _dialogue_checks(dataset),
        build_judgement_checks(dataset),
        _files_valid(dataset),
        build_diversity_check(dataset),
        build_endpoint_check(dataset),
    ]


def _dialogue_checks(dataset: DatasetSpec) -> dg.AssetChecksDefinition:
    base: Any = config_class(dataset.recipe.checks)
    key = dataset.key(DIALOGUES)

    class DialogueChecksConfig(base):  # type: ignore[misc]
        """Config of the checks of `dialogues`: their thresholds."""

    @dg.multi_asset_check(
        name=dataset.op("dialogue_checks"),
        description="One pass over the dialogues; no model is asked and no server is started.",
        specs=[
            dg.AssetCheckSpec(check.name, asset=key, description=check.description, blocking=check.blocking)
            for check in CHECKS
            if check.name not in _left_out(dataset)
        ],
        required_resource_keys={"store"},
        can_subset=True,
    )
    def dialogue_checks(
        context: dg.AssetCheckExecutionContext, config: DialogueChecksConfig
    ) -> Iterable[dg.AssetCheckResult]:
        source = f"ops.{dataset.op('dialogue_checks')}.config"
        thresholds = validate(ChecksConfig, plain(config, ChecksConfig), source)
        yield from _check(dataset, context, thresholds)

    return dialogue_checks


def _left_out(dataset: DatasetSpec) -> set[str]:
    """Return the checks that say nothing of a dataset, or are those of another asset."""
    recipe = dataset.recipe
    return {
        *([PASS_RATE] if recipe.judge.mode == "offline" else []),  # `judgements` has it then
        *([] if recipe.conversation.goals else [GOALS_MET]),
    }


def _check(
    dataset: DatasetSpec, context: dg.AssetCheckExecutionContext, thresholds: ChecksConfig
) -> Iterator[dg.AssetCheckResult]:
    """Check what the dataset would be written from: a run that is fine does not hide an earlier one."""
    run_store = dataset.store(context).run_store(dataset.name)
    chosen = {key.name for key in context.selected_asset_check_keys}
    run = context.instance.get_run_by_id(context.run.run_id)  # `dialogues` has tagged it meanwhile
    tags = run.tags if run is not None else {}
    record = run_store.run(tags.get(RUN_ID_TAG))
    if record is None and NOTHING_TAG not in tags:
        raise dg.Failure("there are no dialogues to check yet: materialize `dialogues` first")
    reports = _reports(run_store, record, thresholds, chosen) if record is not None else _nothing(chosen)
    blocking = {check.name for check in CHECKS if check.blocking}
    for report in reports:
        outcome = report.summary
        if NOTHING_TAG in tags and record is not None:
            outcome = f"nothing was to be made here; of what was made before: {outcome}"
        if not report.passed:
            context.log.warning(f"{report.name}: {outcome}")
        fails = report.name in blocking and not _is_of_others(dataset, run, report, run_store, thresholds)
        yield dg.AssetCheckResult(
            asset_key=dataset.key(DIALOGUES),
            check_name=report.name,
            passed=report.passed,
            severity=dg.AssetCheckSeverity.ERROR if fails else dg.AssetCheckSeverity.WARN,
            description=outcome,
            metadata=check_metadata(report, record.run_id if record is not None else ""),
        )


def _nothing(chosen: Collection[str]) -> list[CheckReport]:
    """Of a run that had nothing to make where nothing was made before."""
    outcome = "nothing was to be made here"
    return [CheckReport(check.name, True, outcome, {}) for check in CHECKS if check.name in chosen]


def _reports(
    run_store: RunStore, record: RunRecord, thresholds: ChecksConfig, chosen: Set[str]
) -> list[CheckReport]:
    scope = Scope(fingerprint=record.fingerprint)
    outcomes = run_store.outcomes(scope)
    if not outcomes.planned:  # all of former seeds, as when an earlier run was resumed
        scope = Scope(run_id=record.run_id)
        outcomes = run_store.outcomes(scope)
    parts = run_store.parts(scope)
    names = chosen & COLLECTORS.keys()
    found: list[Findings] = []
    with run_store.connection() as connection:
        judged = latest_judging(connection, run_store.dataset, record.fingerprint)
    if judged and (of_verdicts := names & {PASS_RATE, GOALS_MET}):
        # The verdicts that count are those given afterwards, and these may change.
        found = [findings_of(judged_dialogues(run_store, scope), (), thresholds, of_verdicts)]
        names -= of_verdicts
    languages = {part.language for part in parts if part.done}
    markup = validate(MarkupConfig, record.config["markup"], "llm") if "markup" in record.config else None
    made = record.config.get("generation", {})
    phrases = phrases_of(
        validate(PromptsConfig, made.get("prompts", {}), "prompts"),
        validate(ConversationConfig, made.get("conversation", {}), "conversation"),
    )
    kept = kept_findings(run_store.database, scope, languages, thresholds, names, markup, phrases)
    return run_checks(
        itertools.chain(found, kept),
        lambda: questions_of(run_store.database, scope),
        outcomes,
        thresholds,
        parts=_ends(parts),
        only=chosen,
    )


def _ends(parts: Iterable[Part]) -> list[PartEnds]:
    """How the parts ended, by the names of their partitions."""
    return [
        PartEnds(dialogue_key(part.language, part.batch), part.done + part.unaccepted, part.dropped)
        for part in parts
    ]


def _is_of_others(
    dataset: DatasetSpec,
    run: dg.DagsterRun | None,
    report: CheckReport,
    run_store: RunStore,
    thresholds: ChecksConfig,
) -> bool:
    """Whether other partitions than those of this run are what fails: they stop the dataset, not the run."""
    if run is None or not {PARTITION, RANGE_START} & run.tags.keys():
        return False
    whole = run.job_name == dataset.label("generate_dialogues")
    if dataset.key(DIALOGUE_DATASET) in run.asset_selection if run.asset_selection else whole:
        return False  # it would go on to write the dataset
    if NOTHING_TAG in run.tags:
        return True
    run_id = run.tags.get(RUN_ID_TAG)
    if run_id is None or report.name != DROP_RATE:
        return False
    outcomes, parts = run_store.outcomes(run_id), _ends(run_store.parts(run_id))
    (own,) = run_checks((), tuple, outcomes, thresholds, parts=parts, only=(DROP_RATE,))
    return own.passed


def _files_valid(dataset: DatasetSpec) -> dg.AssetChecksDefinition:
    key = dataset.key(DIALOGUE_DATASET)

    @dg.asset_check(
        name="files_valid",
        asset=key,
        description="The files can be read, and all hold the same dialogues, at least one.",
        blocking=True,
    )
    def files_valid(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        folder = dataset.latest_folder(context.instance)
        if folder is None:
            return dg.AssetCheckResult(passed=False, description="no dataset was written yet")
        try:
            counts = verify_dataset(folder)
        except DlgforgeError as error:
            return dg.AssetCheckResult(passed=False, description=str(error))
        if not any(counts.values()):
            return dg.AssetCheckResult(passed=False, description=f"{folder} holds no dialogue")
        return dg.AssetCheckResult(
            passed=True,
            description=f"{max(counts.values(), default=0)} dialogues in each of {len(counts)} formats",
            metadata={"folder": dg.MetadataValue.path(folder), **counts},
        )

    return files_valid
