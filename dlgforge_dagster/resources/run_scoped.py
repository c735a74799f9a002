"""What resources that start things have in common: set-up arms, the first use starts, teardown stops."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

import dagster as dg
from pydantic import PrivateAttr


class RunScopedResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Setting it up only arms it: checks and the end of a run set resources up as well.

    Whoever starts something says with `before_teardown` how it is stopped.
    """

    _cleanup: ExitStack | None = PrivateAttr(default=None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Self]:
        """Be there for a step process; what was started meanwhile ends with it."""
        with ExitStack() as cleanup:
            self._cleanup = cleanup
            try:
                yield self
            finally:
                self._cleanup = None
                self._forget()

    def before_teardown(self, stop: Callable[[], None]) -> None:
        """Have `stop` called at the end, before what was asked for earlier."""
        if self._cleanup is None:
            raise RuntimeError(f"{type(self).__name__} is used outside of a Dagster run")
        self._cleanup.callback(stop)

    def start_over(self) -> None:
        """Stop what was started, as at the end; the next use starts it again."""
        if self._cleanup is not None:
            self._cleanup.pop_all().close()
        self._forget()

    def _forget(self) -> None:
        """Let go of what the run had started, which is about to be stopped."""
