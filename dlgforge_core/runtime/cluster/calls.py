"""Calls to Ray that several parts need: what the cluster has free, why something failed, ending an actor."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

PLACEMENT_PROGRESS_S = 10.0
"""After how long to say that something waits for a place on the cluster."""

CALL_TIMEOUT_S = 15.0

_log = logging.getLogger(__name__)


def reported_again_after(first_s: float, waited_s: float) -> float:
    """Seconds until a wait is told of again: ever more rarely, so that one of days does not fill the log."""
    return max(first_s, waited_s / 4)


def cluster_line() -> str:
    """Return what of the cluster is free now, as part of a sentence."""
    import ray

    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    parts = [f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU")]
    return f"free are {' and '.join(parts)}"


def largest_node(resource: str) -> float:
    """How much of a resource the living node with most of it has, free or not."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return max((node["Resources"].get(resource, 0.0) for node in nodes if node["Alive"]), default=0.0)


def cause_of(error: object) -> object:
    """Return what was raised inside the actor, where `error` wraps that; else `error` itself."""
    return getattr(error, "cause", None) or error


def first_line(error: object) -> str:
    """Return what was raised, inside the actor if there, in one line."""
    cause = cause_of(error)
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(error).__name__


def ask_all(actors: Sequence[Any], method: str, timeout_s: float = CALL_TIMEOUT_S) -> list[Any]:
    """Call a method of all actors at once; an answer, or the exception, for each."""
    import ray

    refs = [getattr(actor, method).remote() for actor in actors]
    ready, _ = ray.wait(refs, num_returns=len(refs), timeout=timeout_s) if refs else ([], [])
    answers: list[Any] = []
    for ref in refs:
        if ref not in ready:
            answers.append(TimeoutError(f"its actor did not answer within {timeout_s:g} s"))
            continue
        try:
            answers.append(ray.get(ref))
        except Exception as error:
            answers.append(error)
    return answers


@contextlib.contextmanager
def quietly(what: str) -> Iterator[None]:
    """Whatever fails while something is ended must not hide why it is ended.

    Ray's own errors tell that it has ended already. Anything else is logged, as a failure of `what`.
    """
    import ray

    try:
        yield
    except (ray.exceptions.RayError, ValueError):  # a ValueError: there is no such actor
        return
    except Exception:
        _log.warning("%s failed", what, exc_info=True)


def kill_quietly(actor: Any) -> None:
    """End an actor by force, if it is still there; never raises."""
    import ray

    with quietly("ending an actor"):
        if ray.is_initialized():  # else Ray would start a cluster of its own for this
            ray.kill(actor)
