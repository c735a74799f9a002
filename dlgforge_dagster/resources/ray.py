"""The Ray cluster as a Dagster resource."""

from collections.abc import Callable
from typing import Any

from pydantic import PrivateAttr

from dlgforge_core.config import RayConfig, validate
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.resources.run_scoped import RunScopedResource

_Base: Any = config_class(RayConfig, RunScopedResource)


class RayResource(_Base):  # type: ignore[misc]
    """A Ray cluster: one at `address`, or a local one of our own.

    Who needs it connects, and teardown shuts down what was started here: what runs on it ends first.
    """

    _session: RaySession | None = PrivateAttr(default=None)

    def _forget(self) -> None:
        self._session = None

    @property
    def settings(self) -> RayConfig:
        """The checked settings. Raises ConfigError."""
        return validate(RayConfig, plain(self, RayConfig), "resources.ray.config")

    def session(self, progress: Callable[[str], None]) -> RaySession:
        """Return the run's session, to be connected by who needs it; `progress` is told what happens then."""
        if self._session is None:
            session = RaySession(self.settings, progress=progress)
            self.before_teardown(session.shutdown)
            self._session = session
        return self._session
