"""Plans from documents alone: who has which document, in which language, and what continues what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlgforge_core.config import GenerationConfig, LlmConfig, RunConfig, read_recipe, validate
from dlgforge_core.dialogue import DialoguePlan
from dlgforge_core.errors import ConfigError
from dlgforge_core.export.splits import SplitAssigner
from dlgforge_core.generation.preview import preview
from dlgforge_core.planning.document_plan import Lists, SourceDocument, continued, topic_of_document
from dlgforge_core.planning.fingerprint import ContentSource
from dlgforge_core.planning.personas import personas_of
from dlgforge_core.planning.plan import Planning
from dlgforge_core.planning.plan_documents import DocumentSet, plan_documents
from dlgforge_core.prompting import dialogue_prompts, verdict_prompts
from dlgforge_core.prompting.quoting import quote_passages
from dlgforge_core.sources import PlannedDocument
from tests.support.recipes import recipe_problem


def document(name: str, language: str = "en", n_chunks: int = 2, text: str = "") -> SourceDocument:
    return SourceDocument(name, text or f"digest of {name}", language, n_chunks)


class Store:
    """Remembers plans, as the database does."""

    def __init__(self) -> None:
        self.current = ""
        self.rows: dict[tuple[str, str], dict[str, list[PlannedDocument]]] = {}

    def begun(self, fingerprint: str, digest: str) -> Lists:
        return self.rows.get((fingerprint, digest), {})

    def plan(self, documents: Sequence[SourceDocument], **run: Any) -> Planning:
        config = {"run": {"target_languages": ["en", "fr"], **run}, "personas": {"enabled": False}}
        if not {"per_document", "per_chunk"} & run.keys():
            config["topics"] = {"enabled": False}
        generation = validate(GenerationConfig, config, "test")
        planning = plan_documents(
            generation,
            LlmConfig(),
            personas_of(generation.personas),
            DocumentSet(documents, self.current, self.begun),
            source=ContentSource("", f"index of {len(documents)}"),
        )
        assert planning.documents is not None
        self.current = planning.documents.digest
        for plan in planning.plans:
            lists = self.rows.setdefault((planning.fingerprint, self.current), {})
            rows = lists.setdefault(plan.language, [])
            for dialogue in list(plan.dialogues())[len(rows) :]:
                assert dialogue.document is not None
                rows.append(dialogue.document)
        return planning


def ids(planning: Planning) -> dict[str, PlannedDocument | None]:
    return {one.dialogue_id: one.document for plan in planning.plans for one in plan.dialogues()}


def of_documents(planning: Planning) -> Counter[tuple[str, str]]:
    found = [(plan.language, one.document) for plan in planning.plans for one in plan.dialogues()]
    return Counter((one.name, language) for language, one in found if one is not None)


DOCUMENTS = [document("b.md"), document("a.md"), document("c.md", n_chunks=3)]


def test_a_number_of_dialogues_for_each_document_evenly_in_all_languages() -> None:
    planning = Store().plan(DOCUMENTS, per_document=2)
    assert of_documents(planning) == {
        (name, lang): 1 for name in ("a.md", "b.md", "c.md") for lang in ("en", "fr")
    }
    assert [(plan.batch, plan.language, plan.n_dialogues) for plan in planning.plans] == [
        ("documents", "en", 3),
        ("documents", "fr", 3),
    ]
    assert all(one.topic.topic == "" for plan in planning.plans for one in plan.dialogues())
    odd = Store().plan(DOCUMENTS, per_document=1)
    assert [plan.n_dialogues for plan in odd.plans] == [2, 1]


def test_a_document_in_a_target_language_has_its_dialogues_in_that_one() -> None:
    mixed = [document("a", "en"), document("b", "fr"), document("c", ""), document("d", "de")]
    counts = of_documents(Store().plan(mixed, per_document=4))
    assert counts == {
        **{("a", "en"): 4, ("b", "fr"): 4},
        **{(name, language): 2 for name in "cd" for language in ("en", "fr")},
    }
    dialect = of_documents(
        Store().plan([document("a", "ar")], per_document=1, target_languages=["Gulf Arabic"])
    )
    assert dialect == {("a", "Gulf Arabic"): 1}


def test_a_number_of_dialogues_for_each_chunk() -> None:
    planning = Store().plan(DOCUMENTS, per_chunk=1, target_languages=["en"])
    found = [(one.name, one.chunk, one.nth) for one in ids(planning).values() if one is not None]
    assert found == [
        *(("a.md", 0, 0), ("a.md", 1, 0), ("b.md", 0, 0), ("b.md", 1, 0)),
        *(("c.md", 0, 0), ("c.md", 1, 0), ("c.md", 2, 0)),
    ]


def test_without_a_number_of_its_own_documents_go_round() -> None:
    planning = Store().plan(DOCUMENTS, total_samples=12)
    for plan in planning.plans:
        drawn = [one.document for one in plan.dialogues()]
        assert len(drawn) == 6
        for nth, part in enumerate((drawn[:3], drawn[3:])):
            assert {(one.name, one.nth) for one in part if one} == {(f"{x}.md", nth) for x in "abc"}
    more = Store().plan(DOCUMENTS, total_samples=20)
    assert ids(planning).items() <= ids(more).items()


def test_documents_that_come_later_continue_the_plan() -> None:
    store = Store()
    before = store.plan(DOCUMENTS, per_document=2)
    later = [document("0-first.md"), *DOCUMENTS, document("z.md", "fr")]
    after = store.plan(later, per_document=2)
    assert after.fingerprint == before.fingerprint
    assert {p.plan_id for p in after.plans} == {p.plan_id for p in before.plans}
    assert ids(before).items() <= ids(after).items()
    assert after.n_dialogues == 10
    assert ids(store.plan(later, per_document=2)) == ids(after)
    more = store.plan(later, per_document=3)
    assert ids(after).items() <= ids(more).items()
    assert ids(store.plan(DOCUMENTS, per_document=2)) == ids(before), (
        "the last ones are gone: their end is cut"
    )


def test_a_document_that_changed_or_is_gone_begins_another_plan() -> None:
    store = Store()
    before = ids(store.plan(DOCUMENTS, per_document=1))
    edited = [replace(DOCUMENTS[1], digest="other"), *DOCUMENTS[::2]]
    after = ids(store.plan(edited, per_document=1))
    assert len(after) == 3
    assert not before.keys() & after.keys()
    assert ids(store.plan(DOCUMENTS, per_document=1)) == before, (
        "as they were: what was made of them is there"
    )
    assert not before.keys() & ids(store.plan(DOCUMENTS[::2], per_document=1)).keys()


sources = st.lists(
    st.builds(
        document,
        st.sampled_from("abcdefgh"),
        st.sampled_from(["en", "fr", "de", ""]),
        st.integers(1, 3),
        st.sampled_from(["one text", "another"]),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda one: one.name,
)
numbers = st.one_of(
    st.integers(1, 3).map(lambda n: {"per_document": n}), st.integers(1, 2).map(lambda n: {"per_chunk": n})
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(sources, numbers), min_size=1, max_size=4))
def test_whatever_becomes_of_the_documents_each_has_its_dialogues(steps: list[Any]) -> None:
    store = Store()
    known: dict[str, PlannedDocument | None] = {}
    for documents, number in steps:
        planning = store.plan(documents, **number)
        planned = ids(planning)
        n = number.get("per_document") or number["per_chunk"]
        chunks = [
            (one.name, one.digest, chunk)
            for one in documents
            for chunk in (range(one.n_chunks) if "per_chunk" in number else [None])
        ]
        found = Counter((one.name, one.digest, one.chunk) for one in planned.values() if one)
        assert found == Counter(chunks * n)
        assert all(known.get(identity, one) == one for identity, one in planned.items()), (
            "an id stays its own"
        )
        assert ids(store.plan(documents, **number)) == planned
        fresh = Store().plan(documents, **number)
        assert Counter(ids(fresh).values()) == Counter(planned.values())
        known |= planned


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 5), st.sampled_from([["en"], ["en", "fr"], ["en", "fr", "es", "ar"]])
)
def test_languages_come_out_even_within_one(n_documents: int, each: int, languages: list[str]) -> None:
    documents = [document(f"{n}", "") for n in range(n_documents)]
    run = RunConfig(per_document=each, target_languages=languages)
    lists = continued(documents, run, {})
    assert lists is not None
    counts = [len(planned) for planned in lists.values()]
    assert sum(counts) == n_documents * each
    assert max(counts) - min(counts) <= 1


def test_dialogues_of_one_document_are_in_one_split() -> None:
    assigner = SplitAssigner({"train": 0.5, "test": 0.5})
    topics = [
        topic_of_document(PlannedDocument(f"{n}.md", ""), language)
        for n in range(20)
        for language in ("en", "fr")
    ]
    for topic in topics:
        assigner.add(topic)
    splits = [assigner.split_of_id(topic.id) for topic in topics]
    assert splits[::2] == splits[1::2]
    assert Counter(splits) == {"train": 20, "test": 20}


def test_a_plan_is_read_back_as_it_was_kept() -> None:
    for planning in (Store().plan(DOCUMENTS, per_chunk=1), Store().plan(DOCUMENTS, per_document=1)):
        for dialogue in planning.plans[0].dialogues():
            assert DialoguePlan.from_json(dialogue.to_json()) == dialogue


def test_prompts_without_topic_and_personas_read_naturally() -> None:
    plan = Store().plan(DOCUMENTS, per_document=1).plans[0].dialogue(0)
    evidence = quote_passages(["Oil the hinges."])
    asked = dialogue_prompts.user_simulator(plan, [], evidence=evidence)
    assert asked[0]["content"] == (
        "Write the user's side of a chat.\n"
        "Every message is one short question in English, put as this user would, and nothing else."
    )
    assert asked[1]["content"].endswith("Ask me a short question.")
    answered = dialogue_prompts.assistant(plan, [], "Why?")
    assert answered[0]["content"] == (
        "You are a helpful assistant. Answer in English, in the form the question needs: "
        "a few sentences as a rule."
    )
    judge = validate(GenerationConfig, {"judge": {"show_persona": True}}, "test").judge
    system_message = verdict_prompts.conversation_judge(plan, judge, [])[0]["content"]
    assert system_message.startswith(
        "You judge conversations between a user and an assistant. They should be in English."
    )
    assert "was to be" not in system_message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "run: {total_samples: 4, per_document: 2}",
            "recipe.yaml:1: run.per_document: total_samples = 4 and per_document = 2: of these keys one",
        ),
        (
            "run:\n  per_document: 2\n  per_chunk: 1\nknowledge: {path: x}",
            "recipe.yaml:3: run.per_chunk: per_doc",
        ),
        ("run: {per_chunk: 0}", "recipe.yaml:1: run.per_chunk = 0: input should be greater"),
        (
            "run:\n  per_chunk: 2\n",
            "recipe.yaml:2: run.per_chunk: without topics the dialogues are made from docum",
        ),
        (
            "topics: {enabled: false}",
            "recipe.yaml:1: topics.enabled: without topics the dialogues are made from",
        ),
        (
            "topics: {enabled: true}\nrun: {per_document: 1}\nknowledge: {path: x}",
            "recipe.yaml:2: run.per_document: such dialogues are made from documents alone",
        ),
        (
            "topics: {enabled: false}\nwatch: true\nknowledge: {path: x}",
            "recipe.yaml:2: watch: no seeds are read",
        ),
    ],
)
def test_what_cannot_be_is_refused_when_the_recipe_loads(tmp_path: Path, text: str, problem: str) -> None:
    assert problem in recipe_problem(tmp_path / "recipe.yaml", text)


def test_neither_topics_nor_documents_is_reported_clearly() -> None:
    with pytest.raises(ConfigError, match=r"there is nothing to make dialogues from.*set knowledge\.path"):
        Store().plan([], per_document=1)


def test_the_preview_of_a_recipe_without_topics(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "run: {per_document: 1, target_languages: [en]}\nknowledge: {path: x}\npersonas: {enabled: false}"
    )
    shown = "\n".join(preview(read_recipe(path)))
    assert "# document '(a document)', no personas" in shown
    assert "Write the user's side of a chat.\n" in shown
