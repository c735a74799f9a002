"""The asset check of what dialogues are made with: the job `check_endpoints`."""

# No `from __future__ import annotations` here: Dagster reads the annotations of checks as types.

from collections.abc import Iterable

import dagster as dg

from dlgforge_core.config.asset_names import DIALOGUES
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.preflight.check import SetUp, check_setup
from dlgforge_core.preflight.report import Report, Result
from dlgforge_dagster.dataset import DatasetSpec

ENDPOINTS_READY = "endpoints_ready"
_MAX_FAILED_SHOWN = 10


def build_endpoint_check(dataset: DatasetSpec) -> dg.AssetChecksDefinition:
    """Return the check of the endpoints and all else that a dataset's dialogues are made with.

    A run that makes dialogues leaves it out: it finds out by itself, and would pay for the calls.
    """

    @dg.multi_asset_check(
        name=dataset.op("endpoint_checks"),
        description="A few short calls to every endpoint, and a look at Postgres and Ray.",
        specs=[
            dg.AssetCheckSpec(
                ENDPOINTS_READY,
                asset=dataset.key(DIALOGUES),
                description="Endpoints, models, Postgres and Ray do what a run needs. Only by itself: a run "
                "that makes dialogues leaves it out.",
            )
        ],
        required_resource_keys=dataset.resource_keys,
        can_subset=True,
    )
    def endpoint_checks(context: dg.AssetCheckExecutionContext) -> Iterable[dg.AssetCheckResult]:
        if context.job_def.has_node_named(dataset.op(DIALOGUES)):
            context.log.info("left out: this run makes dialogues, and asks the endpoints itself")
            return
        try:
            report = check_setup(_setup(dataset, context))
        except DlgforgeError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        context.log.info("%s", report.text())
        yield dg.AssetCheckResult(
            asset_key=dataset.key(DIALOGUES),
            check_name=ENDPOINTS_READY,
            passed=not report.failed,
            severity=dg.AssetCheckSeverity.ERROR,
            description=report.summary,
            metadata={
                "table": dg.MetadataValue.md(report.markdown()),
                **{result.value: sum(row.result is result for row in report.rows) for result in Result},
            },
        )
        if report.failed:
            # Who starts the job by a command goes by its exit code.
            raise dg.Failure(_problems(report), allow_retries=False)

    return endpoint_checks


def _setup(dataset: DatasetSpec, context: dg.AssetCheckExecutionContext) -> SetUp:
    store, recipe = dataset.store(context), dataset.recipe
    return SetUp(
        recipe.model_copy(update={"llm": dataset.llm(context).settings}),
        dsn=store.resolve,
        ray=dataset.ray(context).settings,
        postgres=store.settings,
    )


def _problems(report: Report) -> str:
    bad = [row for row in report.rows if row.result is Result.FAILED]
    lines = [f"{row.subject}, {row.check}: {row.finding}" for row in bad[:_MAX_FAILED_SHOWN]]
    more = [f"and {len(bad) - len(lines)} more"] if len(bad) > len(lines) else []
    return "\n".join([report.summary, *lines, *more])
