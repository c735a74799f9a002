"""When calls cannot be made any more: what the endpoints of one caller come to together."""

from __future__ import annotations

from collections.abc import Sequence

from dlgforge_core.errors import RunRefusedError, RunStoppedError
from dlgforge_core.llm.health import HealthTracker


def reason_to_stop(
    group: Sequence[HealthTracker], now: float, patience_s: float, whose: str
) -> RunStoppedError | None:
    """Return the error of calls that no endpoint of `group` can take; None as long as one may.

    `whose` says in the message whose calls they are; it may be empty.
    """
    if all(t.refused for t in group):
        return RunRefusedError(
            f"no endpoint{whose} can be used; correct the key, the account or the address:\n{_reasons(group)}"
        )
    if all(t.refused or (t.failed_trials and t.asks_too_much(now)) for t in group):
        return RunStoppedError(
            f"no endpoint{whose} can be used for now; run again once it takes calls:\n{_reasons(group)}"
        )
    if not all(_is_over(t, now, patience_s) for t in group):
        return None
    return RunStoppedError(f"no endpoint{whose} has given an answer for {patience_s:g} s:\n{_reasons(group)}")


def has_had_enough(tracker: HealthTracker, now: float, patience_s: float) -> bool:
    """Whether an endpoint has failed for as long as anybody waits."""
    end = tracker.patience_ends(patience_s)
    return tracker.asks_too_much(now) or (end is not None and now >= end)


def unusable(group: Sequence[HealthTracker], model: str) -> str:
    """Why no endpoint of `group` will ever serve `model`, or an empty string."""
    if not all(t.refused or model in t.unknown_models for t in group):
        return ""
    return (
        f"no endpoint serves the model {model}; check its name and what is asked of it:\n"
        f"{_reasons(group, model)}"
    )


def _is_over(tracker: HealthTracker, now: float, patience_s: float) -> bool:
    if tracker.refused:
        return True
    # Dialogues may fail of themselves: only a call of none shows that it is the endpoint.
    return tracker.failed_trials > 0 and has_had_enough(tracker, now, patience_s)


def _reasons(group: Sequence[HealthTracker], model: str = "") -> str:
    return "\n".join(
        f"  {t.endpoint.name} ({t.endpoint.base_url}): {t.unknown_models.get(model) or t.reason}"
        for t in group
    )
