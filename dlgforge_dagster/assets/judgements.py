"""`judgements`: verdicts on dialogues that are there already."""

# No `from __future__ import annotations` here: Dagster reads the annotations of assets as types.

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import dagster as dg
from pydantic import Field

from dlgforge_core.config import JudgeConfig, validate
from dlgforge_core.config.asset_names import DIALOGUES, JUDGEMENTS
from dlgforge_core.dialogue import MAX_SCORE
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.export.markdown import escape_inline
from dlgforge_core.export.plots import markdown_image
from dlgforge_core.judging.agreement import Agreement
from dlgforge_core.judging.judges import WHOLE
from dlgforge_core.judging.plots import judges_png
from dlgforge_core.judging.results import LowScore, agreement, lowest_scores
from dlgforge_core.judging.run import JudgingReport, JudgingStatus, judge_dialogues
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.automation import keep_fresh
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.metadata import table
from dlgforge_dagster.steps import (
    as_failure,
    endpoint_slot,
    failure,
    report_status,
    run_and_scope,
)
from dlgforge_dagster.tags import JUDGED_TAG, OWNERS
from dlgforge_dagster.versions import code_version, digest

_N_LOWEST = 5


def build_judgements(dataset: DatasetSpec) -> dg.AssetsDefinition:
    """Return the asset that judges a dataset's dialogues afterwards."""
    base: Any = config_class(dataset.recipe.judge)

    class JudgementsConfig(base):  # type: ignore[misc]
        """Config of `judgements`."""

        run_id: str = Field(
            "",
            description="Judge this dlgforge run alone. Empty: all that was made with the latest config.",
        )

    @dg.asset(
        name=JUDGEMENTS,
        key_prefix=dataset.key_prefix,
        group_name=dataset.group,
        kinds={"postgres"},
        owners=OWNERS,
        deps=[dataset.key(DIALOGUES)],
        automation_condition=keep_fresh() if dataset.recipe.judge.mode == "offline" else None,
        code_version=code_version(1, dataset.recipe.judge),
        required_resource_keys=dataset.resource_keys,
        description=dataset.description(
            "Verdicts on finished dialogues by one or more judges, with `mode: offline`: each judges "
            "what it has not judged yet. Run it again to resume. In another mode it does nothing."
        ),
    )
    def judgements(context: dg.AssetExecutionContext, config: JudgementsConfig) -> dg.MaterializeResult[None]:
        source = f"ops.{dataset.op(JUDGEMENTS)}.config"
        with as_failure(context, dataset.llm(context), dataset.ray(context)):
            judge = validate(JudgeConfig, plain(config, JudgeConfig), source)
        if judge.mode != "offline":
            note = f"nothing is judged here in mode {judge.mode!r}: set {source}.mode to 'offline'"
            context.log.info(note)
            # Not nothing at all: what follows in the same run would be skipped. See `keep_fresh`.
            return dg.MaterializeResult(
                data_version=dg.DataVersion("none"), metadata={"note": note, "verdicts_given": 0}
            )
        with as_failure(context):
            return _judgements(dataset, context, judge, config.run_id)

    return judgements


def _judgements(
    dataset: DatasetSpec, context: dg.AssetExecutionContext, judge: JudgeConfig, run_id: str
) -> dg.MaterializeResult[None]:
    run_store = dataset.store(context).run_store(dataset.name)
    record, scope = run_and_scope(run_store, run_id, "judge")
    context.instance.add_run_tags(context.run.run_id, {JUDGED_TAG: record.fingerprint[:16]})
    # As many at once as the dialogues were made with, whether the recipe says so or the launchpad did.
    recorded = record.config.get("generation", {}).get("run", {})
    slots = recorded.get("max_concurrent_runs", dataset.recipe.run.max_concurrent_runs)
    try:
        report = _judge(dataset, context, run_store, scope, judge, slots)
    except DlgforgeError as error:
        raise failure(context, error, fingerprint=record.fingerprint[:16]) from error
    for tally in report.tallies.values():
        for reason, example in tally.examples.items():
            context.log.warning(
                f"{tally.failures[reason]} verdicts could not be had: {reason}, as: {example}"
            )
    if report.stop_reason is not None:
        context.log.warning(f"stopped before everything was judged: {report.stop_reason}")
    names = {one.key: one.name for one in report.judges}
    with run_store.connection() as connection:
        found = agreement(connection, scope, names)
        lowest = lowest_scores(connection, scope, list(names), _N_LOWEST)
    verdicts = {key: tally.kept + tally.given for key, tally in report.tallies.items()}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest([report.fingerprint, verdicts])),
        metadata=judgements_metadata(report, found, lowest),
    )


def _judge(
    dataset: DatasetSpec,
    context: dg.AssetExecutionContext,
    run_store: RunStore,
    scope: Scope,
    judge: JudgeConfig,
    slots: int,
) -> JudgingReport:
    ray, llm = dataset.ray(context), dataset.llm(context)

    def on_status(status: JudgingStatus) -> None:
        figures = {
            "verdicts": status.judged,
            "wanted": status.wanted,
            "calls_per_s": round(status.calls_per_s, 2),
            "tokens_per_s": round(status.tokens_per_s, 1),
        }
        report_status(context, status, figures)

    def endpoints() -> Sequence[Endpoint]:
        held.enter_context(endpoint_slot(context, run_store, slots))
        found = llm.endpoints(judge.concurrency, context.log.info, ray)
        for endpoint in found:
            context.log.info(f"endpoint {endpoint.name}: {endpoint.base_url}")
        return found

    with ExitStack() as held:
        return judge_dialogues(
            run_store,
            scope,
            judge,
            llm.settings,
            endpoints,
            on_status,
            on_wait=lambda: context.log.info("waiting: another process judges the same with the same judges"),
            refresh=lambda: llm.fleet.endpoints if llm.fleet is not None else None,
        )


def judgements_metadata(
    report: JudgingReport, found: Agreement, lowest: Sequence[LowScore]
) -> Mapping[str, Any]:
    """Of a sitting of `judgements`. Plain numbers are plotted over time by Dagster itself."""
    total = report.calls.total()
    metadata: dict[str, Any] = {
        "plots": dg.MetadataValue.md(markdown_image(judges_png(found), "scores of the judges")),
        "judges": table(_judge_rows(report, found)),
        "verdicts": report.kept + report.given,
        "verdicts_given": report.given,
        "verdicts_kept": report.kept,
        "verdicts_missing": report.missing,
        "complete": report.missing == 0,
        "seconds": round(report.elapsed_s, 2),
        "calls": total.calls,
        "failed_calls": total.failures.total(),
        "prompt_tokens": total.prompt_tokens,
        "cached_tokens": total.cached_tokens,
        "completion_tokens": total.completion_tokens,
        "fingerprint": report.fingerprint[:16],
    }
    if report.stop_reason is not None:
        metadata["stop_reason"] = report.stop_reason
    if found.mean is not None:
        metadata["mean_score"] = round(found.mean, 3)
    if found.alpha is not None:
        metadata["alpha"] = round(found.alpha, 4)
    if found.pairs:
        metadata["agreement"] = table(_pair_rows(found))
    if lowest:
        names = {judge.key: judge.name for judge in report.judges}
        metadata["lowest_scores"] = dg.MetadataValue.md(_lowest_markdown(lowest, names))
    if report.failures:
        rows = [{"reason": reason, "verdicts": n} for reason, n in sorted(report.failures.items())]
        metadata["failed_by_reason"] = table(rows)
    return metadata


def _judge_rows(report: JudgingReport, found: Agreement) -> list[dict[str, Any]]:
    rows = []
    for judge in report.judges:
        tally = report.tallies[judge.key]
        rows.append(
            {
                "judge": judge.name,
                "model": judge.model,
                "mean score": _shown(found.mean_of(judge.name), 2),
                "given": tally.given,
                "kept": tally.kept,
                "failed": tally.failures.total(),
                "tokens in": tally.prompt_tokens,
                "tokens out": tally.completion_tokens,
            }
        )
    return rows


def _pair_rows(found: Agreement) -> list[dict[str, Any]]:
    rows = [
        {
            "judges": f"{pair.first}, {pair.second}",
            "judged by both": pair.units,
            "Krippendorff's alpha": _shown(pair.alpha, 3),
            "mean difference": _shown(pair.mean_difference, 2),
            "within 1 point": "" if pair.within_one is None else f"{pair.within_one:.0%}",
        }
        for pair in found.pairs
    ]
    if len(found.judges) > 2:
        rows.append(
            {
                "judges": "all",
                "judged by both": found.units,
                "Krippendorff's alpha": _shown(found.alpha, 3),
                "mean difference": "",
                "within 1 point": "",
            }
        )
    return rows


def _lowest_markdown(lowest: Sequence[LowScore], names: Mapping[str, str]) -> str:
    parts = []
    for low in lowest:
        what = "whole conversation" if low.turn_index == WHOLE else f"turn {low.turn_index + 1}"
        topic = escape_inline(low.topic or "(off the seed topic)", 120)
        lines = [f"**{topic}** ({escape_inline(low.language, 40)}, `{low.dialogue_id}`, {what})", ""]
        for key, verdict in low.verdicts.items():
            reasons = escape_inline(", ".join(verdict.reasons), 200)
            comment = escape_inline(verdict.comment, 300)
            lines.append(
                f"- {escape_inline(names[key], 60)}: {verdict.score}/{MAX_SCORE}, {reasons}. {comment}"
            )
        lines += [
            "",
            f"> user: {escape_inline(low.user, 400)}",
            ">",
            f"> assistant: {escape_inline(low.assistant, 400)}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _shown(figure: float | None, digits: int) -> str:
    return "" if figure is None else f"{figure:.{digits}f}"
