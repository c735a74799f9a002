"""Whether an answer came to its end, by the reason that its server gives."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from dlgforge_core.llm.server_errors import excerpt
from dlgforge_core.llm.stats import FailureKind
from dlgforge_core.llm.vocabulary import Ending, ending_of, squeeze

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """How one answer ended. `failure` is None for one that can be used as it is, or shortened."""

    kind: Ending
    failure: FailureKind | None = None
    problem: str = ""


_AS_IT_IS = {kind: AnswerEnd(kind) for kind in Ending}


class Endings:
    """Reads finish reasons, those of the configuration first, and tells once of each that nobody knows."""

    def __init__(self, own: Mapping[str, str]) -> None:
        self._own = {squeeze(reason): Ending(kind) for reason, kind in own.items()}
        self._logged: set[tuple[str, str]] = set()

    def of(self, finish_reason: str, endpoint: str) -> AnswerEnd:
        """How an answer of this endpoint ended."""
        kind = (self._own and self._own.get(squeeze(finish_reason))) or ending_of(finish_reason)
        if kind not in (Ending.ERROR, Ending.UNKNOWN):
            return _AS_IT_IS[kind]
        shown = excerpt(finish_reason)[:80]
        if kind is Ending.ERROR:
            return AnswerEnd(kind, FailureKind.ABORTED, f"the answer broke off (finish_reason {shown!r})")
        if len(self._logged) < 100 and (endpoint, shown) not in self._logged:
            self._logged.add((endpoint, shown))
            _log.warning(
                "endpoint %s ends answers with the finish_reason %r, which dlgforge does not know: they are "
                "not taken as whole. Say what it means with llm.routing.finish_reasons: {%r: stop}, or "
                "length, content_filter or error",
                endpoint,
                shown,
                shown,
            )
        return AnswerEnd(
            kind,
            FailureKind.UNKNOWN_END,
            f"the answer ends with the unknown finish_reason {shown!r} (llm.routing.finish_reasons says what "
            "it means)",
        )
