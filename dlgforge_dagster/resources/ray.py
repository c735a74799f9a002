"""The Ray cluster as a Dagster resource."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import dagster as dg
from pydantic import PrivateAttr

from dlgforge_core.config import RayConfig, validate
from dlgforge_core.runtime.ray_session import RaySession
from dlgforge_dagster.config import config_class, plain

_Base: Any = config_class(RayConfig, dg.ConfigurableResource)


class RayResource(_Base):  # type: ignore[misc]
    """A Ray cluster: one at `address`, or a local one of our own.

    Setting it up only arms it; who needs it connects, and teardown shuts down what was started here.
    """

    _cleanup: ExitStack | None = PrivateAttr(default=None)
    _session: RaySession | None = PrivateAttr(default=None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Self]:
        with ExitStack() as cleanup:
            self._cleanup = cleanup
            try:
                yield self
            finally:
                self._cleanup, self._session = None, None

    @property
    def settings(self) -> RayConfig:
        """The checked settings. Raises ConfigError."""
        return validate(RayConfig, plain(self, RayConfig), "resources.ray.config")

    def session(self, progress: Callable[[str], None]) -> RaySession:
        """The run's session, to be connected by who needs it; `progress` is told what happens then."""
        if self._session is None:
            session = RaySession(self.settings, progress=progress)
            self.before_teardown(session.shutdown)
            self._session = session
        return self._session

    def before_teardown(self, stop: Callable[[], None]) -> None:
        """Have `stop` called at the end, before what was asked for earlier: what runs on Ray ends first."""
        if self._cleanup is None:
            raise RuntimeError("RayResource is used outside of a Dagster run")
        self._cleanup.callback(stop)
