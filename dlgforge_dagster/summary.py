"""A run's outcome for CI: JSON and JUnit XML of its assets, checks and figures.

    dagster job execute ... --tags '{"dlgforge/ci": "4711"}'
    python -m dlgforge_dagster.summary --tag dlgforge/ci=4711 --json summary.json --junit junit.xml

Reads a run of the job from the Dagster instance: the latest one with the tag, for a job whose config was
invalid leaves no run at all, and the latest run is an older one then. Exit code 0 when the run succeeded,
else 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import dagster as dg

# What XML 1.0 cannot hold.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def summary(
    instance: dg.DagsterInstance, job: str, run_id: str = "", tags: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Outcome, figures and checks of a run: the latest of `job` (with `tags`). Raises LookupError."""
    filters = dg.RunsFilter(run_ids=[run_id]) if run_id else dg.RunsFilter(job_name=job, tags=tags)
    runs = instance.get_runs(filters, limit=1)
    if not runs:
        raise LookupError(_no_run(job, run_id, tags or {}))
    run = runs[0]
    assets: dict[str, Any] = {}
    checks: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    for entry in instance.all_logs(run.run_id):
        event = entry.dagster_event
        if event is None:
            continue
        if event.is_step_materialization:
            made = event.step_materialization_data.materialization
            if made.partition is None or made.asset_key.to_user_string() not in assets:
                assets[made.asset_key.to_user_string()] = _figures(made.metadata)
        elif event.event_type == dg.DagsterEventType.ASSET_OBSERVATION:
            seen = event.asset_observation_data.asset_observation
            # What was not finished is told of, but not materialized: at most some partitions of it are.
            if "complete" in seen.metadata:
                assets[seen.asset_key.to_user_string()] = _figures(seen.metadata)
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            data = event.asset_check_evaluation_data
            checks.append(
                {
                    "asset": data.asset_key.to_user_string(),
                    "check": data.check_name,
                    "passed": data.passed,
                    "severity": data.severity.value,
                    "summary": data.description or "",
                    "figures": _figures(data.metadata),
                }
            )
        elif event.is_step_failure:
            error = event.step_failure_data.error
            failures[event.step_key or ""] = (error.cause or error).message.strip() if error else "failed"
    return {
        "run_id": run.run_id,
        "job": run.job_name,
        "status": run.status.value,
        "tags": {key: value for key, value in run.tags.items() if key.startswith("dlgforge/")},
        "complete": all(figures.get("complete", True) for figures in assets.values()),
        "assets": assets,
        "checks": checks,
        "failures": failures,
    }


def _no_run(job: str, run_id: str, tags: Mapping[str, str]) -> str:
    if run_id:
        return f"there is no run {run_id}"
    if not tags:
        return f"the job {job} was never run"
    state = ", ".join(f"{key}={value}" for key, value in tags.items())
    return f"there is no run of {job} with {state}: it was never launched, or its config was invalid"


def _figures(metadata: Any) -> dict[str, Any]:
    return {
        name: value.value
        for name, value in metadata.items()
        if isinstance(
            value,
            dg.IntMetadataValue
            | dg.FloatMetadataValue
            | dg.TextMetadataValue
            | dg.BoolMetadataValue
            | dg.JsonMetadataValue,
        )
    }


def junit(data: dict[str, Any]) -> ElementTree.ElementTree[ElementTree.Element]:
    """Return a summary as JUnit XML: a case an asset and check, and a failed one where no other fails.

    Checks that only warn are skipped ones, and so is `plan is complete` of what a budget has stopped.
    """
    suite = ElementTree.Element("testsuite", name=f"dlgforge {data['job']}")
    counts = {"tests": 0, "failures": 0, "skipped": 0}

    def case(kind: str, name: str) -> ElementTree.Element:
        counts["tests"] += 1
        return ElementTree.SubElement(suite, "testcase", classname=f"dlgforge.{kind}", name=name)

    def outcome(element: ElementTree.Element, tag: str, message: str) -> None:
        counts["failures" if tag == "failure" else "skipped"] += 1
        ElementTree.SubElement(element, tag, message=_NO_XML.sub("\ufffd", message))

    for name, figures in data["assets"].items():
        case("asset", name)
        if "complete" in figures:
            element = case(f"plan.{name}", "plan is complete")
            if not figures["complete"]:
                outcome(element, "skipped", str(figures.get("stop_reason", "there is more to do")))
    for name, message in data["failures"].items():
        outcome(case("step", name), "failure", message)
    for check in data["checks"]:
        element = case(f"check.{check['asset']}", check["check"])
        if not check["passed"]:
            outcome(element, "failure" if check["severity"] == "ERROR" else "skipped", check["summary"])
    if data["status"] != "SUCCESS" and not counts["failures"]:
        outcome(
            case("run", data["run_id"] or data["job"]), "failure", data.get("error") or _unsuccessful(data)
        )
    suite.attrib.update({key: str(value) for key, value in counts.items()})
    return ElementTree.ElementTree(suite)


def _unsuccessful(data: Mapping[str, Any]) -> str:
    state = f"the run is {data['status']}, not SUCCESS"
    return f"{state}: its process was lost, or is still at work" if data["status"] == "STARTED" else state


def _missing(job: str, error: str) -> dict[str, Any]:
    """Return the summary of a run that there is not."""
    empty: dict[str, Any] = {"run_id": "", "job": job, "status": "NOT_FOUND", "error": error, "tags": {}}
    return {**empty, "complete": False, "assets": {}, "checks": [], "failures": {}}


def _tag(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not (key and found):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def main() -> int:
    """Write the summary of a run; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--job", default="generate_dialogues", help="whose latest run")
    parser.add_argument(
        "--tag",
        action="append",
        default=[],
        type=_tag,
        metavar="KEY=VALUE",
        help="whose latest run with this tag, as given to `dagster job execute --tags`; may be repeated",
    )
    parser.add_argument("--run-id", default="", help="this Dagster run instead")
    parser.add_argument("--json", type=Path, help="file to write; - or none: standard output")
    parser.add_argument("--junit", type=Path, help="JUnit XML file to write")
    arguments = parser.parse_args()
    with dg.DagsterInstance.get() as instance:
        try:
            data = summary(instance, arguments.job, arguments.run_id, dict(arguments.tag))
        except LookupError as error:
            print(error, file=sys.stderr)
            data = _missing(arguments.job, str(error))
    text = json.dumps(data, indent=2, ensure_ascii=False)
    if arguments.json is None or str(arguments.json) == "-":
        print(text)
    else:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    if arguments.junit is not None:
        junit(data).write(arguments.junit, encoding="utf-8", xml_declaration=True)
    return 0 if data["status"] == "SUCCESS" else 1


if __name__ == "__main__":
    sys.exit(main())
