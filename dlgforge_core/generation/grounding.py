"""What grounded dialogues draw on: a document for each, evidence for questions, passages for answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlgforge_core.config import CoverageConfig
from dlgforge_core.dialogue import DialoguePlan, Evidence, Role
from dlgforge_core.knowledge.citations import cited
from dlgforge_core.knowledge.retrieval import Knowledge
from dlgforge_core.knowledge.types import Chunk, Hit
from dlgforge_core.languages import base_code
from dlgforge_core.sources import PlannedDocument


@dataclass(frozen=True, slots=True)
class Anchor:
    """What a dialogue is about.

    `evidence`: a chunk of its document for each turn. `on_topic`: it suits the seed topic.
    """

    on_topic: bool
    evidence: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Grounding:
    """Gives the dialogues of one worker their documents and passages."""

    knowledge: Knowledge
    fingerprint: str
    seed: int
    coverage: CoverageConfig
    top_k: int

    async def anchor(self, plan: DialoguePlan) -> Anchor:
        """Return the dialogue's document, the same however often it is taken up; counted as used."""
        if plan.document is not None:
            return await self._planned(plan, plan.document)
        pool = self.knowledge.pool(plan.language)
        topic = plan.topic
        subject = topic.topic or " ".join(one.user for one in topic.exchanges[:1])
        candidates = await self.knowledge.relevance(subject, topic.question or "", pool, topic.language)
        assignment = await self.knowledge.assign_document(
            self.fingerprint, plan.dialogue_id, candidates, coverage=self.coverage, seed=self.seed
        )
        chunks = await self.knowledge.chunks_of(assignment.document)
        return Anchor(
            on_topic=not topic.topic or candidates.relevance_of(assignment.document) > 0,
            evidence=rotated(chunks, assignment.nth, plan.n_turns),
        )

    async def _planned(self, plan: DialoguePlan, document: PlannedDocument) -> Anchor:
        await self.knowledge.note_document(self.fingerprint, plan.dialogue_id, document.name)
        chunks = await self.knowledge.chunks_of(document.name)
        if document.chunk is not None:
            chunks = chunks[document.chunk : document.chunk + 1]
        return Anchor(on_topic=True, evidence=rotated(chunks, document.nth, plan.n_turns))

    async def release(self, dialogue_id: str) -> None:
        """Take back the document of a dropped dialogue."""
        await self.knowledge.release_document(self.fingerprint, dialogue_id)

    async def passages(self, plan: DialoguePlan, question: str, asked_from: Chunk | None) -> list[Hit]:
        """Return the passages for a question: the best of the documents in its language.

        Among them what the question came from, if it did, in place of the last one where the search did not
        find it: however the question was put, its answer is there.
        """
        hits = await self.search(plan, question, k=self.top_k)
        if asked_from is None or any(hit.chunk.text == asked_from.text for hit in hits):
            return hits  # itself, or the same text of another document
        return [*hits[: max(0, self.top_k - 1)], Hit(asked_from, 0.0)]

    async def texts(self, chunk_ids: Sequence[str]) -> dict[str, str]:
        """Return the texts of chunks by id."""
        chunks = await self.knowledge.chunks(chunk_ids)
        return {chunk.chunk_id: chunk.text for chunk in chunks}

    async def search(self, plan: DialoguePlan, query: str, *, k: int) -> list[Hit]:
        """Return what the assistant finds by itself, as a tool."""
        pool = self.knowledge.pool(plan.language)
        return await self.knowledge.search(query, k=k, pool=pool, language=plan.language)


def rotated(chunks: Sequence[Chunk], nth: int, n_turns: int) -> tuple[Chunk, ...]:
    """Return a chunk for each turn, in order, from where the document's dialogue `nth` - 1 ended."""
    return tuple(chunks[(nth * n_turns + turn) % len(chunks)] for turn in range(n_turns))


def evidence_of(
    plan: DialoguePlan, question: Chunk | None, hits: Sequence[Hit], answer: str
) -> tuple[Evidence, ...]:
    """Return the record of a turn: what the question came from, and the passages, cited or not."""
    language = base_code(plan.language)
    asked = (
        [Evidence(question.chunk_id, question.document, Role.USER_SIMULATOR)] if question is not None else []
    )
    found = {hit.chunk.chunk_id: hit for hit in reversed(hits)}  # a tool may find a passage once more
    given = [
        Evidence(
            hit.chunk.chunk_id,
            hit.chunk.document,
            Role.ASSISTANT,
            score=round(float(hit.score), 4),
            cited=cited(answer, hit.chunk.text, language),
        )
        for hit in reversed(found.values())
    ]
    return (*asked, *given)
