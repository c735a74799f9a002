"""Preflight of a recipe: everything that a run of it needs, looked at side by side, and no dialogue made."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field

from dlgforge_core.common.secrets import secret_variables
from dlgforge_core.config import PostgresConfig, RayConfig, Recipe
from dlgforge_core.database.dsn import ResolvedDsn
from dlgforge_core.errors import DlgforgeError
from dlgforge_core.preflight.callers import (
    Caller,
    asks_started_servers,
    callers_of_recipe,
    endpoints_of_callers,
)
from dlgforge_core.preflight.cluster import check_ray
from dlgforge_core.preflight.context import context_needs
from dlgforge_core.preflight.endpoints import check_endpoint
from dlgforge_core.preflight.knowledge import check_knowledge
from dlgforge_core.preflight.postgres import check_postgres
from dlgforge_core.preflight.report import Report, Row, failed
from dlgforge_core.preflight.serving import check_started_servers
from dlgforge_core.preflight.tools import check_tools

TIMEOUT_S = 120.0
"""For everything together."""


@dataclass(frozen=True, slots=True)
class SetUp:
    """What a run would be made with. `recipe.llm` is that in force, the environment's word in it.

    `dsn` finds the database of the run state, and may start the embedded one.
    """

    recipe: Recipe
    dsn: Callable[[], ResolvedDsn] = field(repr=False)
    ray: RayConfig = field(default_factory=RayConfig)
    postgres: PostgresConfig = field(default_factory=PostgresConfig, repr=False)
    env: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)


def check_setup(setup: SetUp, timeout_s: float = TIMEOUT_S) -> Report:
    """Return what came of everything that a run needs, within `timeout_s` seconds.

    Every endpoint gets a few short calls of each of its callers, with their own parameters: these cost some
    tokens. All is tried, whatever fails; no row holds a secret. May be called where an event loop runs.
    """
    reports: list[Report] = []

    def work() -> None:
        reports.append(asyncio.run(_Preflight(setup, timeout_s).check()))

    thread = threading.Thread(target=work, name="dlgforge-preflight", daemon=True)
    thread.start()
    thread.join()
    return reports[0]


class _Preflight:
    """One preflight: its rows by the part that they are of, in the order in which they are shown."""

    def __init__(self, setup: SetUp, timeout_s: float) -> None:
        self._setup = setup
        self._timeout_s = timeout_s
        self._parts: dict[str, list[Row]] = {}
        names = secret_variables(setup.recipe.model_dump(mode="json"))
        self._secrets = [value for name in names if (value := setup.env.get(name))]

    async def check(self) -> Report:
        """Look at every part, all at once."""
        started = time.monotonic()
        work = {name: asyncio.create_task(part) for name, part in self._planned().items()}
        _, late = await asyncio.wait(work.values(), timeout=self._timeout_s)
        for name, task in work.items():
            problem = "" if task in late or task.exception() is None else repr(task.exception())
            if task in late:
                task.cancel()
                problem = f"did not come to an end within {self._timeout_s:g} s"
            if problem:
                self._parts[name].append(failed(name, "check", problem, "look at it by itself"))
        rows = [row for rows in self._parts.values() for row in rows]
        return Report([row.shown(self._secrets) for row in rows], time.monotonic() - started)

    def _planned(self) -> dict[str, Coroutine[None, None, None]]:
        """Return what is to be done, by part."""
        setup, recipe, llm = self._setup, self._setup.recipe, self._setup.recipe.llm
        callers: list[Caller] = []
        parts: dict[str, Coroutine[None, None, None]] = {}
        rows = self._rows("recipe")
        try:
            callers = callers_of_recipe(recipe, llm)
        except DlgforgeError as error:
            rows.append(failed("recipe", "callers", str(error)))
        try:
            needs = context_needs(recipe)
        except DlgforgeError as error:
            needs = {}
            rows.append(failed("recipe", "plan", str(error), "correct the seeds or the documents"))
        endpoints = endpoints_of_callers(llm, callers, setup.env, rows.append)
        started = asks_started_servers(llm, callers)
        if started:
            report = self._rows(f"llm.backend {llm.backend}").append
            check_started_servers(llm, callers, needs, report)
        for endpoint in endpoints:
            self._secrets += endpoint.secrets
            name = f"endpoint {endpoint.name}"
            parts[name] = check_endpoint(
                *(endpoint, callers, llm, needs, self._rows(name).append),
                list_is_needed=llm.backend == "vllm_attach",
            )
        tools = self._rows("tools").append
        parts["tools"] = _in_thread(lambda: check_tools(recipe, setup.env, tools))
        parts["knowledge"] = check_knowledge(recipe, setup.env, self._rows("knowledge").append)
        postgres, ray = self._rows("postgres").append, self._rows("ray").append
        parts["postgres"] = _in_thread(
            lambda: check_postgres(setup.dsn, setup.postgres, recipe, setup.ray, postgres)
        )
        parts["ray"] = _in_thread(
            lambda: check_ray(*(recipe, llm, setup.ray, setup.env, setup.dsn, ray), starts_servers=started)
        )
        return parts

    def _rows(self, part: str) -> list[Row]:
        return self._parts.setdefault(part, [])


async def _in_thread(work: Callable[[], None]) -> None:
    """Do what blocks in a thread that holds up neither the loop's end nor the process'."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def end(error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result(None) if error is None else ended.set_exception(error)

    def run() -> None:
        problem: BaseException | None = None
        try:
            work()
        except BaseException as error:
            problem = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(end, problem)

    threading.Thread(target=run, name="dlgforge-preflight-part", daemon=True).start()
    await ended
