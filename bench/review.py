"""What the pages of `make review` take at 100,000 dialogues: `python -m bench.review`.

Dialogues of two turns in five languages, with verdicts, attributes and tools, are copied straight into the
run state, their words drawn from a vocabulary of 20,000 by Zipf's law. Then they are indexed, as the page
does it in the background, and pages are asked for as a browser asks, each several times: filters alone and
together, frequent and rare words, the deepest page, single dialogues. Server time is that of the answer.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from starlette.testclient import TestClient

from bench.fixture import fresh_store, peak_mb
from dlgforge_core.database.connection import Connection
from dlgforge_core.review.access import Keys
from dlgforge_core.review.index import update_index
from dlgforge_core.review.pages import review_app
from dlgforge_core.review.sessions import ReviewState
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.usage import RoleUsage, usage_json
from tests.support.dialogues import make_dialogue
from tests.support.review import put_run

LIMIT_MS = 100
_DIALOGUES = (
    "dialogues (dialogue_id, plan_id, ordinal, n_turns, plan, status, turns_done, ended_by, ended_at, usage)"
)
_TURNS = "turns (dialogue_id, turn_index, user_text, assistant_text, judgement, details, worker_id)"
_LANGUAGES = ("en", "fr", "de", "es", "ar")
_REASONS = ("helpful", "accurate", "too_long", "incorrect", "unclear")
_TOPICS = 400
_WORDS = 20_000
_ANSWER_WORDS = 80
_MARKED = 2_000
_TIMES = 7
_START = datetime(2026, 11, 1, tzinfo=UTC)


def fill(store: RunStore, n: int, draw: random.Random) -> None:
    """Copy `n` finished dialogues into the run state."""
    words = [f"word{i}" for i in range(_WORDS)]
    weights = list(itertools.accumulate(1 / (i + 1) for i in range(_WORDS)))

    def text(length: int) -> str:
        return " ".join(draw.choices(words, cum_weights=weights, k=length))

    with store.connection() as connection, connection.transaction():
        plans = [put_run(connection, language, n_dialogues=n) for language in _LANGUAGES]
        _copy(
            connection,
            _DIALOGUES,
            (
                (
                    f"d{i:06}",
                    plans[i % 5],
                    i // 5,
                    2,
                    _plan(i),
                    "done" if i % 11 else "unaccepted",
                    2,
                    "user" if i % 7 == 0 else None,
                    _START + timedelta(seconds=i),
                    _usage(draw) if i % 3 else None,
                )
                for i in range(n)
            ),
        )
        _copy(
            connection,
            _TURNS,
            (
                (f"d{i:06}", turn, text(12), text(_ANSWER_WORDS), _verdict(draw), _details(i), 0)
                for i in range(n)
                for turn in (0, 1)
            ),
        )
        connection.execute(
            "INSERT INTO review_marks (dialogue_id, reviewer, verdict, label, comment) "
            "SELECT dialogue_id, 'Ada', CASE WHEN random() < 0.7 THEN 'good' ELSE 'bad' END, '', '' "
            "FROM dialogues ORDER BY random() LIMIT %s",
            (_MARKED,),
        )
    with store.connection() as connection:
        connection.execute("ANALYZE")


def _plan(i: int) -> str:
    plan = make_dialogue(i, topic=f"topic number {i % _TOPICS}").plan.to_json()
    return orjson.dumps({**plan, "dialogue_id": f"d{i:06}", "attributes": {"tone": f"tone {i % 9}"}}).decode()


def _verdict(draw: random.Random) -> str:
    reasons = [draw.choices(_REASONS, weights=(50, 30, 15, 4, 1))[0]]
    score = min(10, max(0, round(draw.gauss(7, 2))))
    return orjson.dumps({"score": score, "reasons": reasons, "comment": ""}).decode()


def _details(i: int) -> str | None:
    if i % 50:
        return None
    return orjson.dumps(
        {"tools": [{"name": "rare_tool" if i % 2000 == 0 else "search", "arguments": {}}]}
    ).decode()


def _usage(draw: random.Random) -> str:
    tokens, answer_tokens = draw.randint(500, 5_000), draw.randint(50, 500)
    used = RoleUsage(4, tokens, answer_tokens, dollars=1e-6 * tokens + 4e-6 * answer_tokens)
    return orjson.dumps(usage_json({"qa_generator": used})).decode()


def _copy(connection: Connection, target: str, rows: Iterator[tuple[Any, ...]]) -> None:
    while part := list(itertools.islice(rows, 10_000)):  # each within the time that a statement may take
        with connection.cursor() as cursor, cursor.copy(f"COPY {target} FROM STDIN".encode()) as copy:
            for row in part:
                copy.write_row(row)


PAGES = {
    "first page": "/",
    "lowest score first": "/?order=lowest",
    "highest cost first": "/?order=dearest",
    "language": "/?language=ar",
    "run": "/?run=run--fr",
    "topic": "/?topic=number 123",
    "score between": "/?min=2&max=3",
    "score that none has": "/?min=9.9&max=9.95",
    "label, frequent": "/?reason=helpful",
    "label, rare": "/?reason=unclear",
    "attribute": "/?attribute=tone = tone 4",
    "tool, rare": "/?tool=rare_tool",
    "not accepted": "/?status=unaccepted",
    "not marked": "/?marked=no",
    "marked bad": "/?marked=bad",
    "five filters": "/?language=fr&min=6&reason=accurate&ended=user&status=done",
    "search, in every dialogue": "/?q=word0",
    "search, in one of 20": "/?q=word400",
    "search, rare": "/?q=word19000",
    "search, two words": "/?q=word40 word300",
    "search, a phrase": '/?q="word3 word5"',
    "search, a beginning": "/?q=word1234*",
    "search, without": "/?q=word50 -word1",
    "search and filters": "/?q=word100&language=de&max=4",
    "search, found nowhere": "/?q=nowhere",
    "deepest page": "/?after={deep}",
    "deepest page, by score": "/?order=lowest&after={deep}",
    "deepest page, by cost": "/?order=dearest&after={deep}",
    "one dialogue": "/d/{some}",
    "one dialogue, in a search": "/d/{some}?q=word300&language=en",
    "one dialogue, by score": "/d/{some}?order=highest&reason=unclear",
}


def main() -> None:
    """Print what each page took; fails when one took more than it may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", type=int, default=100_000)
    given = parser.parse_args()
    with fresh_store("bench") as store:
        started = time.monotonic()
        fill(store, given.dialogues, random.Random(1))
        print(f"filled in {time.monotonic() - started:.0f} s", flush=True)
        with store.connection() as connection:
            for what in ("indexed", "looked through again"):
                started = time.monotonic()
                update_index(connection)
                print(f"{what} in {time.monotonic() - started:.1f} s", flush=True)
            connection.execute("ANALYZE")
        slow = measure(store, given.dialogues)
    print(f"peak {peak_mb():.0f} MB")
    if slow:
        raise SystemExit(f"more than {LIMIT_MS} ms: {', '.join(slow)}")


def measure(store: RunStore, n: int) -> list[str]:
    """Print the server time of each page; returns those whose median is over the limit."""
    keys, slow = Keys(), []
    with TestClient(review_app(ReviewState(store.database), keys, {}), base_url="http://127.0.0.1") as client:
        client.get("/", params={"token": keys.token})
        client.cookies.set("dlgforge_reviewer", "Ada")
        time.sleep(5)  # the look for changes at the start is over
        for name, template in PAGES.items():
            path = template.format(deep=f"d{100:06}", some=f"d{n // 2:06}")
            taken = []
            for _ in range(_TIMES):
                started = time.perf_counter()
                answer = client.get(path)
                taken.append(1000 * (time.perf_counter() - started))
                assert answer.status_code == 200, answer.text
            median = statistics.median(taken)
            print(f"{name:28} {median:7.1f} ms, at most {max(taken):7.1f} ms", flush=True)
            if median > LIMIT_MS:
                slow.append(name)
    return slow


if __name__ == "__main__":
    main()
