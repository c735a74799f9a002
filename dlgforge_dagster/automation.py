"""Automation conditions: when assets are materialized by themselves."""

from typing import Any

import dagster as dg

from dlgforge_dagster.tags import JUDGED_TAG


def keep_fresh(judgements: dg.AssetKey | None = None) -> dg.AutomationCondition[Any]:
    """After new dialogues, once nothing is being made any more, unless a blocking check has failed.

    Of `judgements`, if they are named, only runs count that have judged: in most modes they do nothing.
    Not `eager()`: that waits for every partition, and a seed batch need not have topics in every language.
    """
    any_update = dg.AutomationCondition.any_deps_updated()
    updated: dg.AutomationCondition[Any] = any_update
    if judgements is not None:
        theirs = dg.AssetSelection.assets(judgements)
        judged = dg.AutomationCondition.any_new_update_has_run_tags(tag_keys={JUDGED_TAG})
        updated = any_update.ignore(theirs) | dg.AutomationCondition.any_deps_match(judged).allow(theirs)
    handled = dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
    failed = dg.AutomationCondition.any_deps_match(
        dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_failed(), blocking_only=True)
    )
    return (
        updated.since(handled)
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
        & ~failed
    ).with_label("new dialogues, and none in the making")
