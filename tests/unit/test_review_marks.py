"""Marks and edits: kept beside what was generated, compared with judges, exported and imported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import krippendorff
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from dlgforge_core.config import DatasetFilesConfig, validate
from dlgforge_core.config.saving import FiltersConfig
from dlgforge_core.database.connection import Connection
from dlgforge_core.dialogue import Candidate, TurnDetails
from dlgforge_core.errors import ConfigError
from dlgforge_core.export.columns import OptionalColumns
from dlgforge_core.export.filters import Sieve
from dlgforge_core.export.records import sharegpt_record
from dlgforge_core.export.verify import verify_dataset
from dlgforge_core.export.writer import write_dataset
from dlgforge_core.review.access import Keys
from dlgforge_core.review.agreement import PEOPLE, Rated, rated_dialogues, review_agreement
from dlgforge_core.review.exchange import TOOLS, exported, import_marks
from dlgforge_core.review.filters import Filters
from dlgforge_core.review.marks import Part, edits_of, mark_of, marks_of, put_edit, put_mark, texts_of
from dlgforge_core.review.pages import review_app
from dlgforge_core.review.reviewed import has_marks, with_edits, with_marks
from dlgforge_core.review.sessions import ReviewState
from dlgforge_core.store.results import Scope
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.verdicts import Mark
from tests.support.dialogues import lines, make_dialogue
from tests.support.review import FINGERPRINT, conversation, put_dialogues, scored

KEYS = Keys()
SCOPE = Scope(fingerprint=FINGERPRINT)


@pytest.fixture
def connection(store: RunStore) -> Iterator[Connection]:
    """Yield a connection to four dialogues with scores 9, 7, 3 and 8."""
    put_dialogues(
        store, [scored(conversation(n, f"Q{n}?", f"A{n}."), score) for n, score in enumerate((9, 7, 3, 8))]
    )
    with store.connection() as made:
        yield made


def mark(connection: Connection, dialogue_id: str, reviewer: str, verdict: str, *texts: str) -> None:
    assert put_mark(connection, dialogue_id, mark_of(reviewer, verdict, *texts))


def test_the_latest_mark_of_a_reviewer_counts(connection: Connection) -> None:
    mark(connection, "d0", "Ada", "bad", "dull")
    mark(connection, "d0", "Ada", "good", "  fine ", "Well\u202e put.")
    mark(connection, "d0", "Bob", "bad")
    found = marks_of(connection, ["d0", "d1"])
    assert found == {"d0": [Mark("Ada", True, "fine", "Well\u202e put."), Mark("Bob", False)]}
    assert not put_mark(connection, "nowhere", mark_of("Ada", "good"))


@pytest.mark.parametrize(
    ("reviewer", "verdict", "texts"),
    [
        ("", "good", ()),
        (" \u200b", "good", ()),
        ("A" * 61, "good", ()),
        ("Ada", "fine", ()),
        ("Ada", "good", ("l" * 61,)),
    ],
)
def test_what_is_no_mark_is_refused(reviewer: str, verdict: str, texts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        mark_of(reviewer, verdict, *texts)


def test_edits_are_revisions_and_the_original_stays(connection: Connection) -> None:
    put_edit(connection, "d0", (0, "assistant"), "Ada", "Better.\r\nMuch.", revision=1)
    put_edit(connection, "d0", (0, "assistant"), "Bob", "Best.", revision=2)
    with pytest.raises(ConfigError, match="meanwhile"):
        put_edit(connection, "d0", (0, "assistant"), "Ada", "Late.", revision=2)
    edits = edits_of(connection, ["d0"])["d0"]
    assert [edit.text for edit in edits[0, "assistant"]] == ["Better.\nMuch.", "Best."]
    assert texts_of(edits) == {(0, "assistant"): "Best."}
    put_edit(connection, "d0", (0, "assistant"), "Ada", "A0.", revision=3)  # as it was: taken back
    assert texts_of(edits_of(connection, ["d0"])["d0"]) == {}
    row = connection.execute("SELECT assistant_text FROM turns WHERE dialogue_id = 'd0'").fetchone()
    assert row == ("A0.",)
    wrong: list[tuple[tuple[int, Part], str]] = [
        ((1, "user"), "x"),
        ((0, "opening"), "x"),
        ((0, "user"), " \u200b "),
        ((0, "user"), "x" * 10**6 + "x"),
    ]
    for location, text in wrong:
        with pytest.raises(ConfigError):
            put_edit(connection, "d0", location, "Ada", text, revision=1)


def test_the_page_marks_edits_and_takes_back(store: RunStore, connection: Connection) -> None:
    state = ReviewState(store.database)
    client = TestClient(review_app(state, KEYS, {}), base_url="http://127.0.0.1:8321")
    client.get("/", params={"token": KEYS.token})

    def post(path: str, **form: str) -> Any:
        return client.post(
            path, data={"form_token": KEYS.form, "query": "language=en&marked=not-mine", **form}
        )

    assert "say first who you are" in post("/d/d0/mark", verdict="good").text
    named = post("/reviewer", name="Zoë <b>", dialogue="d0")
    assert named.url.path == "/d/d0"
    assert "Zoë &lt;b&gt;" in named.text
    marked = post("/d/d0/mark", verdict="bad", label="too long", comment="See <turn> 1.")
    assert str(marked.url).endswith("/d/d0?language=en&marked=not-mine")
    assert "See &lt;turn&gt; 1." in marked.text
    assert "/d/d1?" in marked.text, "the next one is known though this one has left the list"
    edited = post("/d/d0/edit", turn="0", part="assistant", revision="1", text="<i>Other</i> words.")
    assert "edited by Zoë" in edited.text
    assert "&lt;i&gt;Other&lt;/i&gt; words." in edited.text
    assert post("/d/d0/edit", turn="0", part="assistant", revision="1", text="Late.").status_code == 400
    assert "edited by" not in post("/d/d0/edit", turn="0", part="assistant", revision="2", revert="1").text
    assert post("/d/d0/edit", turn="x", part="assistant", revision="3", text="x").status_code == 400
    assert post("/d/none/mark", verdict="good").status_code == 404
    post("/d/d0/mark", verdict="none")
    assert marks_of(connection, ["d0"]) == {}
    assert "No dialogue is marked yet" in client.get("/agreement").text
    mark(connection, "d0", "Ada", "good")
    mark(connection, "d2", "Ada", "bad")
    page = client.get("/agreement?threshold=8").text
    assert "2 dialogues are marked, 1 of them good" in page
    assert "llama-3.3-70b" in page
    assert "No dialogue among these is marked yet" in client.get("/agreement?language=fr").text
    state.close()


def test_people_agree_with_judges_as_far_as_they_do(connection: Connection) -> None:
    for dialogue_id, ada, bob in (("d0", "good", "good"), ("d1", "bad", "good"), ("d2", "bad", "bad")):
        mark(connection, dialogue_id, "Ada", ada)
        mark(connection, dialogue_id, "Bob", bob)
    mark(connection, "d3", "Ada", "good")
    rated = rated_dialogues(connection, Filters())
    assert len(rated) == 4
    found = review_agreement(rated, threshold=7)
    assert (found.dialogues, found.good) == (4, 2)
    by_name = {one.first: one for one in found.with_judges}
    assert list(by_name) == [PEOPLE, "Ada", "Bob"]
    of_ada, of_bob = by_name["Ada"], by_name["Bob"]
    assert (of_ada.second, of_ada.dialogues, of_ada.both_good, of_ada.both_bad) == ("llama-3.3-70b", 4, 2, 1)
    assert (of_ada.first_good, of_ada.second_good) == (0, 1)
    assert (of_bob.alpha, of_bob.same, of_bob.auc, of_ada.auc) == (1.0, 1.0, 1.0, 1.0)
    assert found.best_thresholds == {"llama-3.3-70b": (8, 1.0)}
    (among,) = found.among_people
    assert (among.dialogues, among.both_good, among.both_bad, among.second_good) == (3, 1, 1, 1)
    assert len(rated_dialogues(connection, Filters(marked="bad"))) == 2


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_figures_are_those_of_others(pairs: list[tuple[bool, int]]) -> None:
    rated = [Rated({"Ada": good}, {"judge": float(score)}) for good, score in pairs]
    (one,) = review_agreement(rated, threshold=6).with_judges
    data = [[float(good) for good, _ in pairs], [float(score >= 6) for _, score in pairs]]
    if len({value for row in data for value in row}) > 1:
        assert one.alpha == pytest.approx(krippendorff.alpha(data, level_of_measurement="nominal"))
    else:
        assert one.alpha is None
    good, bad = [s for g, s in pairs if g], [s for g, s in pairs if not g]
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in good for b in bad]
    assert one.auc == (pytest.approx(sum(wins) / len(wins)) if wins else None)


def test_exports_use_marks_and_edits_where_they_are_asked_to(
    store: RunStore, connection: Connection, tmp_path: Path
) -> None:
    mark(connection, "d0", "Ada", "good", "fine")
    mark(connection, "d1", "Ada", "good")
    mark(connection, "d1", "Bob", "bad", "", "No.")
    put_edit(connection, "d0", (0, "assistant"), "Ada", "Edited.", revision=1)
    counted: list[int] = []
    dialogues = list(
        with_marks(store.database, with_edits(store.database, store.dialogues(SCOPE), counted.append))
    )
    assert counted == [1]
    saving = validate(DatasetFilesConfig, {"formats": ["sharegpt", "sharegpt_judged", "parquet"]}, "saving")
    write_dataset(dialogues, tmp_path, saving=saving, columns=OptionalColumns(marks=True))
    verify_dataset(tmp_path)
    records = lines(tmp_path / "data" / "sharegpt" / "train.jsonl")
    assert records[0]["conversations"][1]["value"] == "Edited."
    assert [record["marks"] for record in records[1:3]] == [
        [
            {"reviewer": "Ada", "verdict": "good", "label": "", "comment": ""},
            {"reviewer": "Bob", "verdict": "bad", "label": "", "comment": "No."},
        ],
        [],
    ]
    assert "marks" not in sharegpt_record(dialogues[0])
    assert has_marks(store.database, SCOPE)
    assert not has_marks(store.database, Scope(fingerprint="other"))
    for wanted, ids in (("good", ["d0"]), ("not_bad", ["d0", "d2", "d3"]), ("any", ["d0", "d1", "d2", "d3"])):
        sieve = Sieve(validate(FiltersConfig, {"marks": wanted}, "saving.filters"))
        assert [one.plan.dialogue_id for one in dialogues if sieve(one)] == ids
        assert sieve.refused == ({"marks": 4 - len(ids)} if wanted != "any" else {})


def test_an_edited_answer_is_the_chosen_one_of_its_candidates(store: RunStore) -> None:
    details = TurnDetails(opening="Hi.", candidates=(Candidate("A.", chosen=True), Candidate("B.")))
    dialogue = conversation(0, "Q?", "A.")
    put_dialogues(store, [replace(dialogue, turns=(replace(dialogue.turns[0], details=details),))])
    with store.connection() as connection:
        put_edit(connection, "d0", (0, "assistant"), "Ada", "C.", revision=1)
        put_edit(connection, "d0", (0, "opening"), "Ada", "Hello.", revision=1)
    (edited,) = with_edits(store.database, store.dialogues(SCOPE))
    assert edited.turns[0].assistant == "C."
    assert edited.opening == "Hello."
    assert [one.answer for one in edited.turns[0].details.candidates] == ["C.", "B."]


def test_keys_that_are_off_leave_no_trace() -> None:
    usual = DatasetFilesConfig()
    assert "marks" not in usual.filters.settings
    assert not usual.review.edits
    assert not usual.review.marks
    assert make_dialogue().marks == ()


# Exchange


def of_label_studio(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what Label Studio exports once people have annotated what was exported to it."""
    regions = [
        {
            "value": {"choices": ["Good"]},
            "id": "x1",
            "from_name": "verdict",
            "to_name": "dialogue",
            "type": "choices",
            "origin": "manual",
        },
        {
            "value": {"text": ["wrong fact"]},
            "id": "x2",
            "from_name": "label",
            "to_name": "dialogue",
            "type": "textarea",
        },
        {
            "value": {"text": ["Line 1", "Line 2"]},
            "id": "x3",
            "from_name": "comment",
            "to_name": "dialogue",
            "type": "textarea",
        },
    ]
    email = {"id": 3, "first_name": "", "last_name": "", "email": "ada@lab.example"}
    bad = [{"value": {"choices": ["bad"]}, "from_name": "verdict", "to_name": "dialogue", "type": "choices"}]
    data[0] |= {
        "id": 1,
        "annotations": [{"id": 7, "completed_by": email, "result": regions, "was_cancelled": False}],
    }
    data[1] |= {
        "id": 2,
        "annotations": [
            {"completed_by": 4, "result": bad},
            {"completed_by": 5, "result": bad, "was_cancelled": True},
            {"completed_by": 6, "result": []},
        ],
    }
    return data


def of_argilla(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what Argilla's `records.to_json` writes once people have responded."""
    users = ["11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"]
    data[0]["responses"] = {
        "verdict": [{"value": "good", "user_id": users[0]}],
        "label": [{"value": "wrong fact", "user_id": users[0]}],
        "comment": [{"value": "Line 1\nLine 2", "user_id": users[0]}],
    }
    data[1]["responses"] = {"verdict": [{"value": "bad", "user_id": users[1]}]}
    return [{**record, "_server_id": "33333333-3333-4333-8333-333333333333"} for record in data]


@pytest.mark.parametrize(
    ("name", "annotated", "ada", "other"),
    [
        ("label-studio", of_label_studio, "ada@lab.example", "Label Studio user 4"),
        (
            *("argilla", of_argilla, "Argilla user 11111111-1111-4111-8111-111111111111"),
            "Argilla user 22222222-2222-4222-8222-222222222222",
        ),
    ],
)
def test_marks_come_back_from_annotation_tools(
    connection: Connection, name: str, annotated: Callable[[list[Any]], list[Any]], ada: str, other: str
) -> None:
    put_edit(connection, "d0", (0, "user"), "Zoë", "Edited?", revision=1)
    data = json.loads(b"".join(exported(connection, TOOLS[name], Filters(order="newest"))))
    assert len(data) == 4
    assert "Edited?" in json.dumps(data[0])
    done = import_marks(connection, json.dumps(annotated(data)).encode(), "export.json")
    assert (done.marks, done.without_verdict, done.unknown) == (2, 2, [])
    assert marks_of(connection, ["d0", "d1", "d2", "d3"]) == {
        "d0": [Mark(ada, True, "wrong fact", "Line 1\nLine 2")],
        "d1": [Mark(other, False)],
    }
    import_marks(connection, json.dumps(data).encode(), "export.json", reviewer="Bob")
    assert [one.reviewer for one in marks_of(connection, ["d1"])["d1"]] == sorted([other, "Bob"])


def test_marks_of_ours_survive_label_studio(connection: Connection) -> None:
    mark(connection, "d2", "Ada", "bad", "dull", "Two\nlines.")
    content = b"".join(exported(connection, TOOLS["label-studio"], Filters(marked="yes")))
    connection.execute("TRUNCATE review_marks")
    assert import_marks(connection, content, "x").marks == 1
    assert marks_of(connection, ["d2"])["d2"] == [Mark("Ada", False, "dull", "Two\nlines.")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b'{"data": 1}', "not a list"),
        (b"[1]", "not a list"),
        (b'[{"id": 1}]', "record 1: it has neither"),
        (
            b'[{"data": {"dialogue_id": "d0"}}, {"data": 5, "annotations": [{"result": 1}]}]',
            "record 2",
        ),
        (
            b'[{"id": "d0", "fields": {}, "responses": {"verdict": [{"value": "so-so", "user_id": "u"}]}}]',
            "so-so",
        ),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_what_cannot_be_imported_says_where_and_changes_nothing(
    connection: Connection, content: bytes, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        import_marks(connection, content, "marks.json")
    assert marks_of(connection, ["d0"]) == {}


def test_marks_of_dialogues_that_are_not_here_are_counted(connection: Connection) -> None:
    records = [
        {"id": id_, "fields": {}, "responses": {"verdict": [{"value": "good", "user_id": "u"}]}}
        for id_ in ("d0", "gone", "a\0\x1b[2J")
    ]
    done = import_marks(connection, json.dumps(records).encode(), "x")
    assert (done.marks, done.unknown) == (1, ["gone", r"a\x00\x1b[2J"])
    assert done.lines[-1].endswith(r"not in this database: 2 (gone, a\x00\x1b[2J)")
