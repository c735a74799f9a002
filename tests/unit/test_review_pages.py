"""The pages: what is listed, how a dialogue is shown, and that every text of others is text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import orjson
import pytest
from starlette.testclient import TestClient

from dlgforge_core.dialogue import Dialogue, Ending, Evidence, Role, TurnDetails
from dlgforge_core.review.access import Keys
from dlgforge_core.review.filters import Filters
from dlgforge_core.review.index import update_index
from dlgforge_core.review.listing import PAGE, neighbours, page_of
from dlgforge_core.review.pages import review_app
from dlgforge_core.review.reading import read_dialogue
from dlgforge_core.review.sessions import ReviewState
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.tool_events import ToolEvent
from dlgforge_core.usage import RoleUsage
from dlgforge_core.verdicts import GoalVerdict
from tests.support.review import FINGERPRINT, conversation, put_dialogue, put_dialogues, put_run, scored

KEYS = Keys()


@pytest.fixture
def client(store: RunStore) -> Iterator[TestClient]:
    """Yield the browser of a reviewer who has been let in."""
    app = review_app(ReviewState(store.database), KEYS, {})
    with TestClient(app, base_url="http://127.0.0.1:8321") as made:
        made.get("/", params={"token": KEYS.token})
        made.cookies.set("dlgforge_reviewer", "Ada")
        yield made


def listed(store: RunStore, reviewer: str = "Ada", **query: str) -> list[str]:
    with store.connection() as connection:
        page = page_of(connection, Filters.of_query(query), reviewer)
    assert page.total == len(page.dialogues)
    return sorted(one.dialogue_id for one in page.dialogues)


def varied(store: RunStore) -> None:
    """Keep five dialogues that differ in all that is filtered by."""
    tool = TurnDetails(tools=(ToolEvent("web_search", {"query": "x"}, "found"),))
    with store.connection() as connection:
        plans = {
            name: put_run(connection, "en", dataset=name, fingerprint=name + "f" * 63)
            for name in ("", "shop")
        }
        french = put_run(connection, "fr", n_dialogues=3)
        first = scored(conversation(0, "Why?", "Because.", topic="Soupe à l’oignon"), 9)
        first = replace(first, goal=GoalVerdict(True), ended_by=Ending.USER)
        put_dialogue(
            connection, plans[""], replace(first, plan=replace(first.plan, attributes={"tone": "warm"}))
        )
        second = scored(conversation(1, "How?", "So."), 3, reasons=("incorrect", "too_long"))
        put_dialogue(connection, plans["shop"], replace(second, goal=GoalVerdict(False)))
        third = conversation(2, "Où ?", "Là.", language="fr")
        put_dialogue(connection, french, replace(third, turns=(replace(third.turns[0], details=tool),)))
        put_dialogue(
            connection, french, conversation(3, language="fr"), status="dropped", drop_reason="refused"
        )
        put_dialogue(connection, plans[""], conversation(4, "What?", "That."), status="unaccepted")
        put_dialogue(connection, plans[""], conversation(5, "Half", "done"), status="pending")
        assert update_index(connection) == 5
        assert update_index(connection) == 0


def test_each_filter_shows_what_it_says(store: RunStore, client: TestClient) -> None:
    varied(store)
    client.post("/d/d0/mark", data={"form_token": KEYS.form, "verdict": "good"})
    client.cookies.set("dlgforge_reviewer", "Bob")
    client.post("/d/d1/mark", data={"form_token": KEYS.form, "verdict": "bad"})
    expected = {
        ("dataset", "shop"): ["d1"],
        ("dataset", "-"): ["d0", "d2", "d3", "d4"],
        ("run", "run--fr"): ["d2"],  # d3 is beyond what that run asked for
        ("language", "fr"): ["d2", "d3"],
        ("topic", "SOUPE oignon"): [],
        ("topic", "a l'oignon"): ["d0"],
        ("status", "done"): ["d0", "d1", "d2"],
        ("status", "unaccepted"): ["d4"],
        ("dropped", "refused"): ["d3"],
        ("min", "3"): ["d0", "d1"],
        ("max", "8,9"): ["d1"],
        ("reason", "too_long"): ["d1"],
        ("attribute", "tone = warm"): ["d0"],
        ("tool", "web_search"): ["d2"],
        ("ended", "user"): ["d0"],
        ("goal", "met"): ["d0"],
        ("goal", "missed"): ["d1"],
        ("marked", "yes"): ["d0", "d1"],
        ("marked", "no"): ["d2", "d3", "d4"],
        ("marked", "good"): ["d0"],
        ("marked", "bad"): ["d1"],
        ("marked", "mine"): ["d0"],
        ("marked", "not-mine"): ["d1", "d2", "d3", "d4"],
        ("q", "because"): ["d0"],
    }
    for (name, value), ids in expected.items():
        assert listed(store, **{name: value}) == ids, (name, value)
        answer = client.get("/", params={name: value})
        assert answer.status_code == 200
        assert f"<h1>{len(ids)} " in answer.text or name == "marked"
    assert listed(store, language="en", max="8", reason="incorrect", status="done") == ["d1"]


def test_what_is_no_filter_is_reported(client: TestClient) -> None:
    for query in ("min=12", "max=abc", "status=fine", "order=random", "marked=perhaps"):
        answer = client.get(f"/?{query}")
        assert answer.status_code == 400
        assert query.split("=")[1] in answer.text


def test_pages_go_on_and_back_through_everything_once(store: RunStore) -> None:
    dialogues = [scored(conversation(n, "Why?", "So."), n % 4) for n in range(2 * PAGE + 7)]
    put_dialogues(store, [*dialogues, conversation(1000, "Why?", "Unjudged.")])
    for order in ("newest", "lowest", "highest"):
        filters = Filters(order=order)
        with store.connection() as connection:
            pages = [page_of(connection, filters)]
            while pages[-1].after:
                pages.append(page_of(connection, filters, after=pages[-1].after))
            ids = [one.dialogue_id for page in pages for one in page.dialogues]
            assert [len(page.dialogues) for page in pages] == [PAGE, PAGE, 8]
            assert len(set(ids)) == len(ids)
            back = pages[-1]
            for page in reversed(pages[:-1]):
                back = page_of(connection, filters, before=back.before)
                assert [one.dialogue_id for one in back.dialogues] == [
                    one.dialogue_id for one in page.dialogues
                ]
            assert not back.before
            for at in (0, 1, PAGE, len(ids) - 1):
                beside = ("", *ids, "")[at], ("", *ids, "")[at + 2]
                assert neighbours(connection, filters, ids[at]) == beside
        scores = [one.score for page in pages for one in page.dialogues]
        if order != "newest":
            assert scores.index(None) == len(scores) - 1
            judged = [score for score in scores if score is not None]
            assert judged == sorted(judged, reverse=order == "highest")


HOSTILE = [
    "<script>alert(1)</script>",
    "</textarea></details><img src=x onerror=alert(1)>",
    "javascript:alert(1) [a](javascript:alert(1))",
    '" onmouseover="alert(1)" x="',
    "{{ 7 * 7 }} {% include '/etc/passwd' %}",
    "safe\u202etxt.exe \u2066isolated \x1b[31m\x07",
]


def test_every_text_of_others_is_shown_as_text(store: RunStore, client: TestClient) -> None:
    put_dialogues(store, [hostile(n, text) for n, text in enumerate(HOSTILE)])
    for n, text in enumerate(HOSTILE):
        form = {"form_token": KEYS.form, "verdict": "bad", "label": text[:60], "comment": text}
        assert client.post(f"/d/d{n}/mark", data=form).status_code == 200
    for path in ("/", *(f"/d/d{n}" for n in range(len(HOSTILE)))):
        page = client.get(path).text
        assert page.count("<script") == 1, "ours"
        assert "<img" not in page
        assert 'href="javascript' not in page
        assert 'onmouseover="' not in page
        assert "root:" not in page
        assert "\u202e" not in page.partition("</title>")[0]
    assert "{{ 7 * 7 }}" in client.get("/d/d4").text
    assert 'safe<span class="control">U+202E</span>txt.exe' in client.get("/d/d5").text


def hostile(ordinal: int, text: str) -> Dialogue:
    """Return a dialogue that has a text wherever one may be."""
    details = TurnDetails(
        tools=(ToolEvent(text, {text: text}, text, call_id=text),), reasoning=text, opening=text
    )
    dialogue = scored(conversation(ordinal, text, text, topic=text), 3, reasons=(text,))
    turn = replace(dialogue.turns[0], details=details)
    plan = replace(dialogue.plan, system_prompt=text, goal=text, attributes={text: text})
    return replace(dialogue, turns=(turn,), plan=plan, goal=GoalVerdict(True, text))


def test_a_megabyte_of_text_is_shown(store: RunStore, client: TestClient) -> None:
    long = "<b>0123456789</b>\n" * 60_000
    put_dialogues(store, [conversation(0, "Why?", long)])
    page = client.get("/d/d0").text
    assert page.count("&lt;b&gt;0123456789&lt;/b&gt;") >= 60_000
    assert "<b>" not in page
    assert client.get("/").status_code == 200


def test_arabic_goes_from_right_to_left(store: RunStore, client: TestClient) -> None:
    put_dialogues(store, [conversation(0, "basmati كيف أطبخ", "Sorry, in English.", language="ar")])
    page = client.get("/d/d0").text
    assert '<div class="text" dir="rtl">basmati كيف أطبخ</div>' in page
    assert '<div class="text" dir="auto">Sorry, in English.</div>' in page


def test_a_dialogue_that_was_led_off_its_topic_is_titled_by_its_document(
    store: RunStore, client: TestClient
) -> None:
    made = conversation(0, "Why does bread rise?", "Yeast.", topic="learning Python")
    found = (
        Evidence("c1", "en/cats.md", Role.ASSISTANT),
        Evidence("c2", "en/bread.md", Role.USER_SIMULATOR),
    )
    led_off = replace(made.turns[0], details=TurnDetails(evidence=found, off_topic=True))
    (dialogue_id,) = put_dialogues(store, [replace(made, turns=(led_off,))])
    for page in ("/", f"/d/{dialogue_id}"):
        text = client.get(page).text
        assert "<title>en/bread.md" in text or '<strong dir="auto">en/bread.md' in text
        assert "learning Python" not in text.split("<aside")[0]


def test_the_index_follows_what_changes(store: RunStore) -> None:
    put_dialogues(store, [scored(conversation(0, "Why?", "So."), 3)])
    with store.connection() as connection:
        connection.execute("UPDATE turns SET judgement = jsonb_set(judgement, '{score}', '9')")
        connection.execute("UPDATE dialogues SET worker_id = NULL")  # as whoever changes a verdict does
        assert update_index(connection) == 1
        assert page_of(connection, Filters()).dialogues[0].score == 9
        connection.execute("DELETE FROM dialogues")
        assert update_index(connection) == 0
        assert page_of(connection, Filters()).total == 0


def test_dropped_and_unfinished_dialogues_say_why(store: RunStore, client: TestClient) -> None:
    nothing: Dialogue = conversation(0)
    put_dialogues(store, [nothing], status="dropped", drop_reason="endpoint_error", drop_detail="503 <busy>")
    page = client.get("/d/d0").text
    assert "dropped: endpoint_error" in page
    assert "503 &lt;busy&gt;" in page
    assert client.get("/d/none").status_code == 404


def test_verdicts_of_judges_that_came_later_are_shown_beside_those_of_the_run(store: RunStore) -> None:
    put_dialogues(store, [scored(conversation(0, "Why?", "So."), 3)])
    with store.connection() as connection:
        judges = [["kb", "b-judge"], ["ka", "a-judge"]]
        connection.execute(
            "INSERT INTO judgings (dataset, fingerprint, judging_id, judges) VALUES ('', %s, 'j', %s)",
            (FINGERPRINT, orjson.dumps(judges).decode()),
        )
        connection.execute("INSERT INTO judges SELECT key, 'm', '{}' FROM unnest('{ka,kb}'::text[]) AS key")
        connection.execute(
            "INSERT INTO judgements (dialogue_id, turn_index, judge_key, score, reasons, comment, "
            "text_digest) VALUES ('d0', -1, 'ka', 8, '{}', '', ''), ('d0', 0, 'ka', 6, '{}', '', ''), "
            "('d0', 0, 'kb', 9, '{}', '', '')"
        )
        reading = read_dialogue(connection, "d0")
    assert reading is not None
    assert [(one.judge, one.judgement.score) for one in reading.of_turn(0)] == [
        ("llama-3.3-70b", 3),
        ("b-judge", 9),
        ("a-judge", 6),
    ]
    assert [one.judge for one in reading.of_turn(None)] == ["a-judge"]
    assert list(reading.mean_scores.items()) == [("llama-3.3-70b", 3), ("b-judge", 9), ("a-judge", 7)]


def test_the_cost_of_a_dialogue_is_shown_by_role_and_lists_are_ordered_by_it(
    store: RunStore, client: TestClient
) -> None:
    dear = {"qa_generator": RoleUsage(2, 1200, 30, 0, 0.25), "kb_responder": RoleUsage(3, 2000, 90, 0, 1.5)}
    usages = [
        {"kb_responder": RoleUsage(1, 10, 5, 0, 0.002)},
        dear,
        {"kb_responder": RoleUsage(1, 7, 3, 0, 0.0, 1)},
    ]
    put_dialogues(
        store, [replace(conversation(n, "Why?", "So."), usage=usage) for n, usage in enumerate([*usages, {}])]
    )
    with store.connection() as connection:
        page = page_of(connection, Filters.of_query({"order": "dearest"}))
        assert neighbours(connection, Filters(order="dearest"), "d0") == ("d1", "d3")
    assert [(one.dialogue_id, one.dollars) for one in page.dialogues[:2]] == [("d1", 1.75), ("d0", 0.002)]
    assert {one.dollars for one in page.dialogues[2:]} == {None}, "not known is not free"
    assert "$1.75" in client.get("/").text
    shown = client.get("/d/d1").text
    for text in ("Assistant</th>", "3,200", "$0.250", "$1.50", "$1.75"):
        assert text in shown
    assert "$" not in (unknown := client.get("/d/d2").text)
    assert "the price was not known" in unknown
    assert "<h2>Calls</h2>" not in client.get("/d/d3").text
