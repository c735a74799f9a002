"""When assets are materialized by themselves."""

from typing import Any

import dagster as dg


def keep_fresh() -> dg.AutomationCondition[Any]:
    """After new dialogues, once nothing is being made any more, unless a blocking check has failed.

    Not `eager()`: that waits for every partition, and a seed batch need not have topics in every language.
    """
    handled = dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
    failed = dg.AutomationCondition.any_deps_match(
        dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_failed(), blocking_only=True)
    )
    return (
        dg.AutomationCondition.any_deps_updated().since(handled)
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
        & ~failed
    ).with_label("new dialogues, and none in the making")
