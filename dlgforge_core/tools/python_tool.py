"""Python functions as tools: called in the worker, on a thread, with a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from dlgforge_core.common.json_schema import problem_of
from dlgforge_core.common.secrets import environment_secrets, redact
from dlgforge_core.errors import RunStoppedError
from dlgforge_core.state_changes import changes_between
from dlgforge_core.tools.executor import CallContext, ToolError, ToolOutput
from dlgforge_core.tools.idle_threads import IdleThreads
from dlgforge_core.tools.python_values import Arguments, plain_result, plain_state
from dlgforge_core.tools.signatures import STATE, wants_state

T = TypeVar("T")

MAX_THREADS = 32
"""Calls of one function at once; one that never returns keeps its thread."""


class PythonTool:
    """Calls a function. What it raises as ValueError is told to the model, and the state stays as it was."""

    limited = True

    def __init__(self, function: Callable[..., Any], state_schema: Mapping[str, Any]) -> None:
        self._function = function
        self._state_schema = state_schema
        self._arguments = Arguments(function)
        self._wants_state = wants_state(function)
        # It may read what it likes of the environment: none of that is for the model or the log.
        self._secrets = environment_secrets()
        self._threads = asyncio.Semaphore(MAX_THREADS)
        self._idle = IdleThreads("dlgforge-tool")

    async def execute(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Return what the function returns, and the difference between the state before and after."""
        given, state = copy.deepcopy(dict(arguments)), copy.deepcopy(context.state)

        def called() -> tuple[Any, Any]:
            made = self._arguments.converted(given)
            if self._wants_state:
                made[STATE] = state
            result = plain_result(_called(self._function, made), self._secrets)
            return result, state if state is None else plain_state(state, self._secrets)

        try:
            result, after = await self._on_thread(called)
        except (ToolError, RunStoppedError):
            raise
        except ValueError as error:
            message = redact(str(error), self._secrets)
            raise ToolError(message or "the arguments cannot be used") from None
        except Exception as error:
            # Not chained: its text may hold what is not for the log.
            raise RuntimeError(redact(f"{type(error).__name__}: {error}", self._secrets)) from None
        changes = changes_between(context.state, after) if self._wants_state else ()
        if changes and (problem := problem_of(after, self._state_schema)):
            raise TypeError(f"the state after the call does not follow tools.state.json_schema: {problem}")
        return ToolOutput(result, changes)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        """Do something on a thread that neither keeps the process alive nor is waited for."""
        await self._threads.acquire()
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        results: list[T] = []
        errors: list[BaseException] = []

        def ended() -> None:
            self._threads.release()
            done.set()

        def run() -> None:
            try:
                results.append(work())
            except BaseException as error:  # SystemExit as well: it is one call that has failed
                errors.append(error)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(ended)

        self._idle.run(run)
        await done.wait()
        if errors:
            if isinstance(errors[0], Exception):
                raise errors[0]
            raise RuntimeError(f"{type(errors[0]).__name__}: {errors[0]}")
        return results[0]

    async def aclose(self) -> None:
        """Let the threads end that have nothing to do."""
        self._idle.close()


def _called(function: Callable[..., T], given: Mapping[str, Any]) -> T:
    result: Any = function(**given)
    if inspect.isawaitable(result):

        async def awaited() -> Any:
            return await result

        result = asyncio.run(awaited())
    found: T = result
    return found
