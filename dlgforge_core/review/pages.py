"""Pages of the review server: lists, dialogues, and what their forms do."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from dlgforge_core.common.web_guard import App, Refused
from dlgforge_core.database.connection import Connection
from dlgforge_core.dialogue import title_of
from dlgforge_core.errors import ConfigError, StoreError
from dlgforge_core.languages import language_name
from dlgforge_core.printable import printable
from dlgforge_core.review import filters as known
from dlgforge_core.review.access import Access, Keys
from dlgforge_core.review.agreement import THRESHOLD, rated_dialogues, review_agreement
from dlgforge_core.review.exchange import (
    LABEL_STUDIO_CONFIG,
    TOOLS,
    Imported,
    exported,
    import_marks,
    tool_of,
)
from dlgforge_core.review.filters import Filters
from dlgforge_core.review.listing import neighbours, page_of, runs
from dlgforge_core.review.marks import (
    PARTS,
    edits_of,
    labels,
    mark_of,
    marks_of,
    put_edit,
    put_mark,
    remove_mark,
    reviewer_name,
    texts_of,
)
from dlgforge_core.review.reading import read_dialogue
from dlgforge_core.review.sessions import ReviewState
from dlgforge_core.review.shown import direction, readable, shown
from dlgforge_core.usage import dollars
from dlgforge_core.verdicts import MAX_SCORE

T = TypeVar("T")

_FOLDER = Path(__file__).parent
_REVIEWER = "dlgforge_reviewer"
_A_YEAR_S = 365 * 24 * 3600
_MAX_FORM_BYTES = 16 << 20
_FIRST_WAIT_S = 2.0
MAX_IMPORT_BYTES = 256 << 20
"""How large a file the page imports; the command takes any."""


def review_app(state: ReviewState, keys: Keys, env: Mapping[str, str] = os.environ) -> App:
    """Return the application of the page: behind its token, with `state` closed at its end."""
    return Access(_application(Pages(state, keys), state), keys, env)


def _application(pages: Pages, state: ReviewState) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        state.refresh()
        yield
        await run_in_threadpool(state.close)

    return Starlette(
        routes=[
            Route("/", pages.list_page),
            Route("/d/{dialogue_id}", pages.dialogue_page),
            Route("/d/{dialogue_id}/mark", pages.mark, methods=["POST"]),
            Route("/d/{dialogue_id}/edit", pages.edit, methods=["POST"]),
            Route("/reviewer", pages.name_reviewer, methods=["POST"]),
            Route("/agreement", pages.agreement_page),
            Route("/exchange", pages.exchange_page),
            Route("/export/{tool}", pages.export),
            Route("/label-studio.xml", pages.label_studio_config),
            Route("/import", pages.import_file, methods=["POST"]),
            Mount("/static", StaticFiles(directory=_FOLDER / "static")),
        ],
        exception_handlers={
            ConfigError: pages.on_mistake,
            StoreError: pages.on_failure,
            Refused: _on_refused,
            404: pages.on_missing,
        },
        lifespan=lifespan,
    )


class Pages:
    """The handlers of requests. Those that wait for Postgres run on threads."""

    def __init__(self, state: ReviewState, keys: Keys) -> None:
        self._state, self._keys = state, keys
        self._templates = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(
            shown=shown, readable=readable, language_name=language_name, dollars=dollars, printable=printable
        )
        self._templates.globals.update(
            form_token=keys.form, direction=direction, max_score=MAX_SCORE, known=known
        )

    def list_page(self, request: Request) -> Response:
        """Show a page of the list."""
        filters, reviewer = Filters.of_query(request.query_params), _reviewer(request)
        # The first page waits for a moment, so that it has something to show.
        self._state.refresh(wait_s=0.0 if self._state.choices.values else _FIRST_WAIT_S)
        after, before = (request.query_params.get(name, "") for name in ("after", "before"))
        page = self._state.run(lambda c: page_of(c, filters, reviewer, after=after, before=before))
        if not page.dialogues and (after or before):  # all that was beyond is gone
            return RedirectResponse(f"/?{filters.query()}", 303)
        return self._show(
            request,
            "list",
            filters=filters,
            page=page,
            runs=self._state.run(runs),
            choices=self._state.choices,
            indexing=self._state.indexing,
            problem=self._state.problem,
        )

    def dialogue_page(self, request: Request) -> Response:
        """Show a dialogue."""
        filters, reviewer = Filters.of_query(request.query_params), _reviewer(request)
        dialogue_id = request.path_params["dialogue_id"]
        reading = self._state.run(lambda c: read_dialogue(c, dialogue_id))
        if reading is None:
            return self._say(request, 404, f"There is no dialogue {dialogue_id} in this database.")
        before, after = self._state.run(lambda c: neighbours(c, filters, dialogue_id, reviewer))
        marks = self._state.run(lambda c: marks_of(c, [dialogue_id])).get(dialogue_id, [])
        edits = self._state.run(lambda c: edits_of(c, [dialogue_id])).get(dialogue_id, {})
        return self._show(
            request,
            "dialogue",
            title=title_of(reading.dialogue.plan, reading.dialogue.turns),
            filters=filters,
            reading=reading,
            before=before,
            after=after,
            marks=marks,
            mine=next((mark for mark in marks if mark.reviewer == reviewer), None),
            edits=edits,
            edited=texts_of(edits),
            labels=self._state.run(labels),
        )

    async def mark(self, request: Request) -> Response:
        """Keep a mark, or take it back, and show the dialogue again."""
        form = await self._form(request)
        dialogue_id, reviewer = request.path_params["dialogue_id"], _needed_reviewer(request)
        verdict = form.get("verdict", "")
        if verdict == "none":
            await self._run(lambda c: remove_mark(c, dialogue_id, reviewer))
        else:
            mark = mark_of(reviewer, verdict, form.get("label", ""), form.get("comment", ""))
            if not await self._run(lambda c: put_mark(c, dialogue_id, mark)):
                return self._say(request, 404, f"There is no dialogue {dialogue_id} in this database.")
        return _back_to(dialogue_id, form)

    async def edit(self, request: Request) -> Response:
        """Keep a revision of a message, and show the dialogue again."""
        form = await self._form(request)
        dialogue_id, reviewer = request.path_params["dialogue_id"], _needed_reviewer(request)
        part = next((one for one in PARTS if one == form.get("part")), None)
        turn, revision = form.get("turn", ""), form.get("revision", "")
        if part is None or not (turn.isdecimal() and revision.isdecimal() and len(turn + revision) < 10):
            raise ConfigError("the form names no message of a turn")
        text = None if "revert" in form else form.get("text", "")
        location = int(turn), part
        await self._run(lambda c: put_edit(c, dialogue_id, location, reviewer, text, revision=int(revision)))
        return _back_to(dialogue_id, form, f"m{turn}-{part}")

    async def name_reviewer(self, request: Request) -> Response:
        """Keep the reviewer's name in a cookie, and go back."""
        form = await self._form(request)
        name = reviewer_name(form.get("name", ""))
        answer = _back_to(form.get("dialogue", ""), form)
        answer.set_cookie(_REVIEWER, quote(name), max_age=_A_YEAR_S, httponly=True, samesite="strict")
        return answer

    def agreement_page(self, request: Request) -> Response:
        """Show how far people and judges agree on the dialogues that the filters leave."""
        filters, reviewer = Filters.of_query(request.query_params), _reviewer(request)
        given = request.query_params.get("threshold", "")
        threshold = int(given) if given.isdecimal() and 0 < int(given) <= MAX_SCORE else THRESHOLD
        rated = self._state.run(lambda c: rated_dialogues(c, filters, reviewer))
        return self._show(
            request,
            "agreement",
            filters=filters,
            threshold=threshold,
            agreement=review_agreement(rated, threshold),
        )

    def exchange_page(self, request: Request) -> Response:
        """Show what can be exported and imported."""
        filters, reviewer = Filters.of_query(request.query_params), _reviewer(request)
        page = self._state.run(lambda c: page_of(c, filters, reviewer))
        return self._show(request, "exchange", filters=filters, page=page, tools=TOOLS)

    def export(self, request: Request) -> Response:
        """Send the dialogues that the filters leave as the JSON of an annotation tool."""
        filters, reviewer = Filters.of_query(request.query_params), _reviewer(request)
        name = request.path_params["tool"].removesuffix(".json")
        tool = tool_of(name)

        def pieces() -> Iterator[bytes]:  # on a connection of its own: it may take long
            with self._state.database.connection() as connection:
                yield from exported(connection, tool, filters, reviewer)

        attached = {"content-disposition": f'attachment; filename="dialogues-{name}.json"'}
        return StreamingResponse(pieces(), media_type="application/json", headers=attached)

    def label_studio_config(self, request: Request) -> Response:
        """Send the labelling interface of Label Studio."""
        attached = {"content-disposition": 'attachment; filename="label-studio.xml"'}
        return Response(LABEL_STUDIO_CONFIG, media_type="application/xml", headers=attached)

    async def import_file(self, request: Request) -> Response:
        """Keep the marks of a file that an annotation tool has exported; answers in words."""
        self._keys.check_form(request.headers.get("x-form-token", ""))
        content = await _body(request, MAX_IMPORT_BYTES)

        def keep() -> Imported:
            with self._state.database.connection() as connection:
                return import_marks(connection, content, "the file")

        try:
            done = await run_in_threadpool(keep)
        except ConfigError as error:
            return PlainTextResponse(f"Nothing was imported: {error}\n", 400)
        return PlainTextResponse("; ".join(done.lines) + "\n")

    def on_mistake(self, request: Request, error: Exception) -> Response:
        """Say what was wrong with a request."""
        return self._say(request, 400, str(error))

    def on_failure(self, request: Request, error: Exception) -> Response:
        """Say why the database did not answer."""
        return self._say(request, 503, str(error))

    def on_missing(self, request: Request, error: Exception) -> Response:
        """Say that there is no such page."""
        return self._say(request, 404, "There is no such page.")

    async def _form(self, request: Request) -> dict[str, str]:
        """Return the fields of a form. Raises Refused for one that is not ours, or too long."""
        kind = request.headers.get("content-type", "").split(";")[0].strip()
        if kind != "application/x-www-form-urlencoded":
            raise Refused(415, "send it as a form")
        body = await _body(request, _MAX_FORM_BYTES)
        form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        self._keys.check_form(form.get("form_token", ""))
        return form

    async def _run(self, work: Callable[[Connection], T]) -> T:
        return await run_in_threadpool(self._state.run, work)

    def _say(self, request: Request, status: int, message: str) -> Response:
        return self._show(request, "message", status, message=message)

    def _show(self, request: Request, name: str, status: int = 200, **values: Any) -> Response:
        template = self._templates.get_template(f"{name}.html.jinja")
        return HTMLResponse(template.render(reviewer=_reviewer(request), **values), status)


async def _body(request: Request, limit: int) -> bytes:
    """Return the content of a request. Raises Refused for more than `limit` bytes."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise Refused(413, f"at most {limit:,} bytes are taken")
    return bytes(body)


def _reviewer(request: Request) -> str:
    """Return the name that the reviewer has given; "" before."""
    try:
        return reviewer_name(unquote(request.cookies.get(_REVIEWER, "")))
    except ConfigError:
        return ""


def _needed_reviewer(request: Request) -> str:
    if not (reviewer := _reviewer(request)):
        raise ConfigError("say first who you are: marks and edits are kept under a name")
    return reviewer


def _back_to(dialogue_id: str, form: Mapping[str, str], fragment: str = "") -> RedirectResponse:
    """Redirect to a dialogue, or to the list, with the filters that the form carries."""
    query = Filters.of_query(dict(parse_qsl(form.get("query", "")))).query()
    path = f"/d/{quote(dialogue_id, safe='')}" if dialogue_id else "/"
    url = path + (f"?{query}" if query else "") + (f"#{fragment}" if fragment else "")
    return RedirectResponse(url, 303)


async def _on_refused(request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, Refused) else 403
    return PlainTextResponse(f"{error}\n", status)
