"""Quality of what a real model makes of the shipped prompts, by measures that are not the judge's own.

    python -m bench.quality judge       # does the judge rank planted bad answers below good ones?
    python -m bench.quality dialogues   # grounded against not, language, near-copies, diversity

Each takes some minutes on two cores. The model is that of `make demo MODEL=qwen-1.5b`, fetched where it is
not there, or `--model FILE`.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.fixture import fresh_store, work
from dlgforge_core.common.words import compared_words
from dlgforge_core.config import (
    EmbeddedConfig,
    GenerationConfig,
    JudgeConfig,
    KnowledgeConfig,
    LlmConfig,
    RetrievalConfig,
    RoutingConfig,
)
from dlgforge_core.dialogue import Dialogue, DialoguePlan, Persona, Role, Turn
from dlgforge_core.generation.prepare import prepare_run
from dlgforge_core.generation.worker_thread import KnowledgeAccess, WorkerSpec
from dlgforge_core.knowledge.citations import cited
from dlgforge_core.knowledge.indexing import index_knowledge
from dlgforge_core.knowledge.retrieval import open_knowledge
from dlgforge_core.languages import base_code
from dlgforge_core.llm.call_errors import CallError
from dlgforge_core.llm.client import LlmClient
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.planning.seeds import read_seeds
from dlgforge_core.prompting.quoting import quote_passages
from dlgforge_core.prompting.verdict_prompts import alternating, turn_judge, verdict_schema
from dlgforge_core.prompting.verdict_reading import judgement_from
from dlgforge_core.quality.diversity import distinct, similarities
from dlgforge_core.quality.language import LanguageDetector
from dlgforge_core.runtime.serving.embedded_model import EmbeddedModelServer
from dlgforge_core.runtime.serving.named_models import named_model
from dlgforge_core.sources import SeedTopic
from dlgforge_core.store.run_store import RunStore

MODEL = "qwen-1.5b"
SLOTS = 2
NEAR_COPY_FROM = 0.8
KINDS = ("good", "wrong", "off_topic", "wrong_language")
_SOMEBODY = Persona(id="", name="", description="")
_AGENTS = {
    "qa_generator": {"max_tokens": 48, "temperature": 0.7},
    "kb_responder": {"max_tokens": 96, "temperature": 0.3},
    "qa_judge": {"max_tokens": 128},
}
LLM = LlmConfig.model_validate({"backend": "embedded", "agents": _AGENTS})


@dataclass(frozen=True)
class Item:
    """A question with a good answer and a wrong one; `twin` is the same in another language."""

    id: str
    twin: str
    language: str
    topic: str
    passage: str
    question: str
    good: str
    wrong: str


def auc(good: Sequence[float], bad: Sequence[float]) -> float:
    """Return how likely a good answer is scored above a bad one; a tie counts half."""
    pairs = [(g > b) + 0.5 * (g == b) for g, b in itertools.product(good, bad)]
    return statistics.fmean(pairs) if pairs else float("nan")


def planted(items: Sequence[Item]) -> Iterator[tuple[Item, str, str]]:
    """Yield each question with each of the `KINDS` of answers."""
    by_id = {item.id: item for item in items}
    for item in items:
        same = [other for other in items if other.language == item.language]
        following = same[(same.index(item) + 1) % len(same)]
        answers = (item.good, item.wrong, following.good, by_id[item.twin].good)
        for kind, answer in zip(KINDS, answers, strict=True):
            yield item, kind, answer


async def judged(
    endpoint: Endpoint, items: Sequence[tuple[Item, str, str]], ends: float
) -> list[dict[str, Any]]:
    """Return the judge's verdicts on `planted` answers, by the shipped prompts; begins none after `ends`."""
    judge = JudgeConfig()
    read = functools.partial(judgement_from, judge=judge)
    agent, schema = LLM.agents.qa_judge, verdict_schema(judge)
    rows: list[dict[str, Any]] = []
    async with LlmClient([endpoint], RoutingConfig()) as client:
        slots = asyncio.Semaphore(SLOTS)

        async def one(item: Item, kind: str, answer: str) -> None:
            plan = DialoguePlan(
                "", 0, item.language, 1, SeedTopic("", item.language, item.topic), _SOMEBODY, _SOMEBODY
            )
            turn = Turn(0, item.question, answer)
            messages = alternating(turn_judge(plan, judge, [], turn, evidence=quote_passages([item.passage])))
            row: dict[str, Any] = {"id": item.id, "kind": kind}
            async with slots:
                if time.monotonic() > ends:
                    return
                try:
                    verdict, _ = await client.complete_json(
                        *(Role.JUDGE, agent, "m", messages, schema, read), affinity=item.id, seed=1
                    )
                    row |= {
                        "score": verdict.score,
                        "reasons": list(verdict.reasons),
                        "comment": verdict.comment,
                    }
                except CallError as error:
                    row["problem"] = str(error)[:200]
            rows.append(row)
            print(json.dumps(row), flush=True)

        await asyncio.gather(*(one(*each) for each in items))
    return rows


def judge_figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return mean scores and AUC of good answers against each kind of bad ones."""
    scores: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if "score" in row:
            scores[row["kind"]].append(row["score"])
    good = scores.pop("good", [])
    bad = {
        kind: {"mean": round(statistics.fmean(of), 2), "auc": round(auc(good, of), 3)}
        for kind, of in scores.items()
    }
    every = [score for of in scores.values() for score in of]
    return {
        "verdicts": sum("score" in row for row in rows),
        "unreadable": sum("problem" in row for row in rows),
        "good": {"mean": round(statistics.fmean(good), 2)} if good else {},
        **bad,
        "all": {"auc": round(auc(good, every), 3)},
    }


def made(store: RunStore, endpoint: Endpoint, total: int, index_id: str) -> list[Dialogue]:
    """Return dialogues of one turn, in English and Spanish, drawn from an index or not."""
    generation = GenerationConfig.model_validate(
        {
            "run": {
                "total_samples": total,
                "target_languages": ["en", "es"],
                "n_turns": 1,
                "concurrency": SLOTS,
                "question_kinds": [],
            },
            "judge": {"mode": "off"},
            "retrieval": {"top_k": 1},
        }
    )
    batches = read_seeds("", strict=True)
    store.save_seed_batches(batches)
    run = prepare_run(store, generation, LLM, batches, index_id=index_id)
    knowledge = KnowledgeAccess() if index_id else None
    work(WorkerSpec(run, store.database, (endpoint,), RoutingConfig(), knowledge=knowledge))
    return list(store.dialogues(run.run_id))


async def passages_for(store: RunStore, index_id: str, dialogues: Sequence[Dialogue]) -> list[list[str]]:
    """Return the passages that fit each dialogue's question best, by words."""
    async with open_knowledge(store.database, store.dataset, index_id, RetrievalConfig(top_k=3)) as known:
        found = [await known.search(one.turns[0].user, k=3, language=one.plan.language) for one in dialogues]
    return [[hit.chunk.text for hit in hits] for hits in found]


def supported(answer: str, passages: Sequence[str], language: str) -> bool:
    """Whether an answer has a sentence that one of the passages bears out, by the words they share."""
    return any(cited(answer, passage, base_code(language)) for passage in passages)


def dialogue_figures(dialogues: Sequence[Dialogue], passages: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return what the texts of dialogues of one turn are like."""
    detector = LanguageDetector(["en", "es"])
    shares, in_language = [], []
    for one, texts in zip(dialogues, passages, strict=True):
        turn, language = one.turns[0], one.plan.language
        shares.append(supported(turn.assistant, texts, language))
        in_language += [
            detector.detect(text) in (None, base_code(language)) for text in (turn.user, turn.assistant)
        ]
    questions = [one.turns[0].user for one in dialogues]
    nearest = similarities(questions).max(axis=1) if len(questions) > 1 else []
    words = [[word.text for word in compared_words(one)] for one in questions]
    return {
        "dialogues": len(dialogues),
        "answers_supported": round(statistics.fmean(shares), 3) if shares else None,
        "language_as_asked": round(statistics.fmean(in_language), 3) if in_language else None,
        "near_copies": int(sum(value >= NEAR_COPY_FROM for value in nearest)),
        "distinct_2": distinct(words, 2),
    }


def main() -> None:
    """Measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["judge", "dialogues"])
    parser.add_argument("--model", type=Path, help="another GGUF file")
    parser.add_argument("--dialogues", type=int, default=8, help="grounded ones, and as many others (8)")
    parser.add_argument("--minutes", type=float, default=60, help="begin no verdict after them (60)")
    parser.add_argument("--skip", type=int, default=0, help="pass over so many questions of the judge's (0)")
    given = parser.parse_args()
    path = given.model or named_model(MODEL, print)
    started = time.monotonic()
    with EmbeddedModelServer(EmbeddedConfig(model_path=str(path), context_tokens=2048)) as server:
        endpoint = server.start(SLOTS)
        if given.part == "judge":
            items = [
                Item(**item)
                for item in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
            ]
            answers = list(planted(items))[len(KINDS) * given.skip :]
            figures = judge_figures(asyncio.run(judged(endpoint, answers, started + 60 * given.minutes)))
        else:
            figures = _of_dialogues(endpoint, given.dialogues)
    print(json.dumps({**figures, "seconds": round(time.monotonic() - started)}, indent=1))


def _of_dialogues(endpoint: Endpoint, total: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    with fresh_store("quality") as store:
        config = KnowledgeConfig(path="shipped", chunk_chars=500, chunk_overlap_chars=0)
        index_id = index_knowledge(store.database, store.dataset, config).index_id
        for name, index in (("grounded", index_id), ("not_grounded", "")):
            dialogues = made(store, endpoint, total, index)
            passages = asyncio.run(passages_for(store, index_id, dialogues))
            for one, texts in zip(dialogues, passages, strict=True):
                turn = one.turns[0]
                shown = {"user": turn.user, "assistant": turn.assistant}
                print(
                    name,
                    json.dumps(shown, ensure_ascii=False),
                    supported(turn.assistant, texts, one.plan.language),
                )
            figures[name] = dialogue_figures(dialogues, passages)
    return figures


if __name__ == "__main__":
    main()
