"""Endpoints before a run: whether each answers the calls that its callers will make, and in which form."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from dlgforge_core.common.hints import nearest
from dlgforge_core.config import LlmConfig, RoutingConfig
from dlgforge_core.errors import ConfigError, DlgforgeError
from dlgforge_core.llm.check import NoModelsError, ServedModel, missing_models, served_models
from dlgforge_core.llm.client import LlmClient
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.forms import Form, Written
from dlgforge_core.llm.structured import JsonMode
from dlgforge_core.llm.tool_calls import Message
from dlgforge_core.llm.trial import TRIAL_MESSAGES
from dlgforge_core.preflight.callers import Caller
from dlgforge_core.preflight.context import context_row
from dlgforge_core.preflight.report import Row, failed, ok, warning

LIST_TIMEOUT_S = 10.0
_AFFINITY = "preflight"
_SYSTEM: Message = {"role": "system", "content": "You answer briefly and to the point."}
_TOOLS_REMEDY = (
    "a run would ask the assistant without tools; vLLM takes them with --enable-auto-tool-choice and "
    "--tool-call-parser"
)

Reporter = Callable[[Row], None]


async def check_endpoint(
    endpoint: Endpoint,
    callers: Sequence[Caller],
    llm: LlmConfig,
    needs: Mapping[str, int],
    report: Reporter,
    *,
    list_is_needed: bool = False,
) -> None:
    """Report on one endpoint: its list of models, then each of its callers, one after the other.

    `needs` are the tokens that a caller's longest call may take, by its name. `list_is_needed`: a run asks
    for the list of models, and does not begin without it.
    """
    callers = [caller for caller in callers if endpoint.serves(caller.name)]
    served, reached = await _models(endpoint, {c.model for c in callers}, report, list_is_needed)
    sizes = {model.name: model.context_tokens for model in served}
    for caller in callers:
        subject = f"{caller.name} at {endpoint.name}"
        if not reached:
            report(failed(subject, "answer", "was not asked: the endpoint cannot be reached"))
            continue
        await _check_caller(endpoint, caller, llm, subject, report)
        report(context_row(subject, caller.model, sizes.get(caller.model), needs.get(caller.name)))


async def _models(
    endpoint: Endpoint, wanted: set[str], report: Reporter, list_is_needed: bool
) -> tuple[list[ServedModel], bool]:
    """Return the models that an endpoint lists, and whether it can be asked anything."""
    subject = f"endpoint {endpoint.name}"
    bad = failed if list_is_needed else warning
    try:
        served = await served_models(endpoint, min(LIST_TIMEOUT_S, endpoint.timeout_s))
    except NoModelsError as error:
        cause, _, remedy = str(error).partition("; ")
        if not error.reached or error.refused:
            report(failed(subject, "reachable", f"{endpoint.base_url}: {cause}", remedy))
        else:
            reason = f"{endpoint.base_url} answers, and gives no list of its models ({cause})"
            remedy = remedy or "base_url must be the address up to and including /v1"
            report(bad(subject, "models", reason, f"{remedy}, unless its calls below are answered"))
        return [], error.reached
    except ConfigError as error:  # a key that no header can hold
        report(failed(subject, "reachable", str(error)))
        return [], False
    report(ok(subject, "reachable", endpoint.base_url))
    if problem := missing_models(wanted, served):
        names = [model.name for model in served]
        near = nearest(min(wanted - set(names)), names)
        meant = f"; did you mean {near!r}?" if near else ""
        report(bad(subject, "models", problem, f"set llm.model or llm.agents.<role>.model{meant}"))
    else:
        report(ok(subject, "models", f"lists {', '.join(sorted(wanted))}"))
    return served, True


async def _check_caller(
    endpoint: Endpoint, caller: Caller, llm: LlmConfig, subject: str, report: Reporter
) -> None:
    # Its own client: what one caller finds out about the endpoint is not taken for what another one did.
    alone = replace(endpoint, callers=frozenset())
    routing = RoutingConfig(
        max_attempts=2, finish_reasons=llm.routing.finish_reasons, error_words=llm.routing.error_words
    )
    async with LlmClient([alone], routing, patience_s=5.0, markup=llm.markup) as client:
        if await _answer(client, caller, subject, report):
            if caller.form is not None:
                await _structured(client, endpoint.name, caller, caller.form, subject, report)
            if caller.tools:
                await _tools(client, endpoint.name, caller, subject, report)


async def _answer(client: LlmClient, caller: Caller, subject: str, report: Reporter) -> bool:
    started = time.monotonic()
    try:
        await client.complete(
            caller.role, caller.agent, caller.model, [_SYSTEM, *TRIAL_MESSAGES], affinity=_AFFINITY, seed=1
        )
    except DlgforgeError as error:
        report(failed(subject, "answer", f"model {caller.model}: {error}", _remedy(caller)))
        return False
    (health,) = client.health()
    lessons = f"; asked {', '.join(health.lessons)}" if health.lessons else ""
    report(ok(subject, "answer", f"{caller.model} in {time.monotonic() - started:.1f} s{lessons}"))
    return True


def _remedy(caller: Caller) -> str:
    where = f"llm.agents.{caller.role.value}"
    return (
        f"see that the server works, and correct {where}.model, the address and key of the endpoint, or what "
        f"{where}.extra_body asks for"
    )


async def _structured(
    client: LlmClient,
    endpoint: str,
    caller: Caller,
    form: Form[object],
    subject: str,
    report: Reporter,
) -> None:
    """Ask for the form as surely as the endpoint takes it, and less so while nothing usable comes."""
    dialect = client.dialect(endpoint, caller.model)
    by_words = "response_format" in caller.agent.extra_body
    tried: list[str] = []
    while True:
        written, problem = await _written(client, caller, form)
        mode = JsonMode.TEXT if by_words else dialect.json_mode
        if written is None:
            report(failed(subject, "structured output", problem, _remedy(caller)))
            return
        try:
            form.read(written)
        except ValueError as error:
            tried.append(f"{_NAMES[mode]}: {error}")
        else:
            report(_structured_row(subject, mode, tried, by_words=by_words))
            return
        if mode is JsonMode.TEXT:
            break
        dialect.json_mode = mode.lower()
    report(
        failed(
            subject,
            "structured output",
            f"{caller.model} gives nothing that can be read ({'; '.join(tried)})",
            f"choose a larger model for {caller.role.value}, a server that holds models to a JSON schema, or "
            f"a larger llm.agents.{caller.role.value}.max_tokens",
        )
    )


_NAMES = {
    JsonMode.JSON_SCHEMA: "json_schema",
    JsonMode.JSON_OBJECT: "json_object",
    JsonMode.TEXT: "in words",
}


def _structured_row(subject: str, mode: JsonMode, tried: Sequence[str], *, by_words: bool) -> Row:
    if mode is JsonMode.JSON_SCHEMA:
        return ok(subject, "structured output", "json_schema: the answer follows it")
    refused = "the model has to keep to the schema by itself"
    finding = f"{_NAMES[mode]}: {refused}" + (f" (before: {'; '.join(tried)})" if tried else "")
    if by_words:
        return ok(subject, "structured output", f"{finding}, as extra_body.response_format asks")
    return warning(
        subject,
        "structured output",
        finding,
        "answers that are not to be read are asked for again and may be dropped; a server with "
        "response_format json_schema rules that out",
    )


async def _written(client: LlmClient, caller: Caller, form: Form[object]) -> tuple[Written | None, str]:
    """Return what a model writes where a form is asked for, or why nothing came."""
    question: Message = {
        "role": "user",
        "content": "Question: which day comes after Monday? Answer: Tuesday.\n\nJudge that answer, and ask "
        "what else you would like to know of the week.",
    }
    raw: Form[Written] = Form(form.schema, lambda written: written, form.words)
    try:
        written, _ = await client.complete_form(
            *(caller.role, caller.agent, caller.model, [_SYSTEM, question], raw), affinity=_AFFINITY, seed=1
        )
    except DlgforgeError as error:
        return None, str(error)
    return written, ""


async def _tools(client: LlmClient, endpoint: str, caller: Caller, subject: str, report: Reporter) -> None:
    names = ", ".join(tool.name for tool in caller.tools)
    question: Message = {
        "role": "user",
        "content": f"Call the tool {caller.tools[0].name} once, to look up when bread is done. Say nothing "
        "before you have its result.",
    }
    try:
        answer = await client.complete(
            *(caller.role, caller.agent, caller.model, [_SYSTEM, question]),
            affinity=_AFFINITY,
            seed=1,
            tools=caller.tools,
        )
    except DlgforgeError as error:
        report(failed(subject, "tools", f"{names}: {error}", _TOOLS_REMEDY))
        return
    if not client.dialect(endpoint, caller.model).tools or not answer.tools_offered:
        report(warning(subject, "tools", f"the endpoint takes no tools ({names})", _TOOLS_REMEDY))
    elif not answer.tool_calls:
        report(
            warning(
                subject,
                "tools",
                f"takes {names}, but {caller.model} called none when it was told to",
                "see that the server's parser of tool calls is the model's, or choose another model",
            )
        )
    else:
        called = ", ".join(call.name for call in answer.tool_calls)
        bad = next((call.problem for call in answer.tool_calls if call.problem), "")
        row = warning(subject, "tools", f"called {called}, and its arguments cannot be used: {bad}")
        report(row if bad else ok(subject, "tools", f"{caller.model} called {called}"))
