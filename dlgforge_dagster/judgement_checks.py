"""Check of `judgements`: verdicts that are given after the dialogues can be checked no earlier."""

# No `from __future__ import annotations` here: Dagster reads the annotations of checks as types.

from dataclasses import replace
from typing import Any

import dagster as dg

from dlgforge_core.config import ChecksConfig, validate
from dlgforge_core.config.asset_names import JUDGEMENTS
from dlgforge_core.judging.results import judged_dialogues
from dlgforge_core.judging.store import latest_judging
from dlgforge_core.quality.checks import run_checks
from dlgforge_core.quality.collectors import PASS_RATE, CheckReport
from dlgforge_core.quality.findings import findings_of
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.metadata.checks import check_metadata


def build_judgement_checks(dataset: DatasetSpec) -> dg.AssetChecksDefinition:
    """Return the checks of a dataset's offline verdicts.

    It is there in every mode, for run config may set another one than the recipe.
    """
    base: Any = config_class(dataset.recipe.checks)

    class JudgementChecksConfig(base):  # type: ignore[misc]
        """Config of the check of `judgements`: `pass_score`, `min_pass_rate` and `max_examples` count."""

    @dg.multi_asset_check(
        name=dataset.op("judgement_checks"),
        description="One pass over the verdicts; no model is asked and no server is started.",
        specs=[
            dg.AssetCheckSpec(
                PASS_RATE,
                asset=dataset.key(JUDGEMENTS),
                description="Enough of the offline verdicts are passes; of several judges their means count.",
            )
        ],
        required_resource_keys={"store"},
    )
    def judgement_checks(
        context: dg.AssetCheckExecutionContext, config: JudgementChecksConfig
    ) -> dg.AssetCheckResult:
        source = f"ops.{dataset.op('judgement_checks')}.config"
        thresholds = validate(ChecksConfig, plain(config, ChecksConfig), source)
        report = _report(dataset.store(context).run_store(dataset.name), thresholds)
        if not report.passed:
            context.log.warning(f"{report.name}: {report.summary}")
        return dg.AssetCheckResult(
            asset_key=dataset.key(JUDGEMENTS),
            check_name=report.name,
            passed=report.passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=report.summary,
            metadata=check_metadata(report),
        )

    return judgement_checks


def _report(run_store: RunStore, thresholds: ChecksConfig) -> CheckReport:
    """Of everything that was made with the latest config, as `judgements` judges it."""
    nothing = CheckReport(PASS_RATE, True, "nothing is judged offline; see the check of `dialogues`", {})
    record = run_store.run()
    if record is None:
        return nothing
    with run_store.connection() as connection:
        if not latest_judging(connection, run_store.dataset, record.fingerprint):
            return nothing
    scope = Scope(fingerprint=record.fingerprint)
    found = findings_of(judged_dialogues(run_store, scope), (), thresholds, {PASS_RATE})
    (report,) = run_checks([found], tuple, run_store.outcomes(scope), thresholds, only=(PASS_RATE,))
    if not report.figures["verdicts"]:
        return replace(
            report, passed=False, summary="the judges gave no verdict: see the log of `judgements`"
        )
    return report
