"""Writing a dataset: with bounded memory, and whole or not at all.

The layout is one that Hugging Face's `load_dataset(folder, <format>)` reads:

    README.md              the dataset card; its header names the files of every configuration and split
    dataset_stats.json     figures, and each file with its size and SHA-256
    plots/*.svg
    data/<format>/<split>.jsonl (or .parquet)

`load_dataset` takes one builder for all configurations of a folder, that of the first one's files. So where
there are JSONL formats as well, the rows of the Parquet files stand beside them as JSONL, and the card names
those for the configuration `parquet`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from dlgforge_core.config.saving import DatasetFilesConfig
from dlgforge_core.dialogue import Dialogue, Role
from dlgforge_core.export.card import CARD_NAME, CardFacts, dataset_card
from dlgforge_core.export.filters import SEMANTIC_DEDUP, EmptyDatasetError, NoPairsError, Predicate, Sieve
from dlgforge_core.export.folder import make_private, move_into_place, writing_folder
from dlgforge_core.export.formats import FORMATS, FormatContext
from dlgforge_core.export.plots import dataset_plots
from dlgforge_core.export.preference_figures import PreferenceFigures
from dlgforge_core.export.records import clean
from dlgforge_core.export.scrub import Scrubber, last_part_if_absolute, machine_folders, secrets_of
from dlgforge_core.export.sinks import formats_of, has_twin, open_sinks
from dlgforge_core.export.splits import SplitAssigner
from dlgforge_core.export.stats import STATS_NAME, DatasetFigures
from dlgforge_core.export.token_counts import MessageSizes, token_counter
from dlgforge_core.quality.figures import DialogueFigures

_SPOOL_NAME = "spool"
# What an earlier writing may have left and this one did not write.
OURS = (
    "plots/*.svg",
    *(f"data/{form.name}/*.{suffix}" for form in FORMATS.values() for suffix in {form.suffix, "jsonl"}),
)


@dataclass(frozen=True, slots=True)
class DatasetFile:
    """A file of a dataset: `name` is its path in the folder, with "/"."""

    format: str
    split: str
    name: str
    dialogues: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """What was written, and what was not: `refused` counts, by filter, the dialogues it kept out."""

    folder: Path
    files: tuple[DatasetFile, ...]
    n_dialogues: int
    by_split: Mapping[str, int]
    refused: Mapping[str, int] = field(default_factory=dict)
    by_language: Mapping[str, int] = field(default_factory=dict)
    figures: DialogueFigures = field(default_factory=DialogueFigures)
    documents: Mapping[str, int] = field(default_factory=dict)
    diversity: Mapping[str, Any] = field(default_factory=dict)
    sizes: MessageSizes = field(default_factory=MessageSizes)
    conversation: tuple[str, ...] = ()
    preferences: PreferenceFigures = field(default_factory=PreferenceFigures)


class Dedup(Protocol):
    """What leaves out dialogues for being like others; `quality.semantic.SemanticDedup` is one."""

    n_refused: int

    def filter(self, dialogues: Iterable[Dialogue], /) -> Iterator[Dialogue]:
        """Yield those dialogues that are like none before them."""
        ...


def write_dataset(
    dialogues: Iterable[Dialogue],
    folder: Path,
    *,
    saving: DatasetFilesConfig | None = None,
    keep: Sequence[tuple[str, Predicate]] = (),
    dedup: Dedup | None = None,
    title: str = "Synthetic dialogues",
    drop_reasons: Mapping[str, int] | None = None,
    tool_definitions: Mapping[str, Mapping[str, Any]] | None = None,
    judges: Sequence[str] = (),
    alpha: float | None = None,
    offered: Sequence[str] = (),
    seed_metadata: bool = False,
    system: bool = False,
    dimensions: Sequence[str] = (),
    attributes: Sequence[str] = (),
    conversation: Sequence[str] = (),
    candidates: bool = False,
    secrets: Iterable[str] | None = None,
) -> DatasetSummary:
    """Write `dialogues` to `folder` as `saving` says, with a card, figures and plots beside them.

    `keep` are named predicates that say which dialogues are written, asked once for each, in order, after
    the filters of `saving`; `dedup` thins out what is left. `drop_reasons` counts the dialogues that
    were given up, `tool_definitions` are the assistant's tools by name, `judges` those who judged when it was
    not the model that they name, `alpha` how far they agree, `offered` the tools that could be called. With
    `seed_metadata` the metadata of seed topics is a column of its own, and so is each of `attributes` and of
    `conversation`, see `ConversationConfig.columns`; `system` says that dialogues may have system messages,
    `candidates` that turns may have several answers.
    The texts of passages are those that the evidence of `dialogues` carries. What is in `secrets` (by default
    this process's) is struck out everywhere.

    `dialogues` is read once; with more than one split it is kept on disk between. Memory grows with the seed
    topics, languages and documents, not with the dialogues. Files are written in a temporary folder inside
    `folder` and then moved into place: readers never see half a file, and a failure leaves the old dataset.
    The dataset takes the place of the one before: its files of formats and splits that are no longer written
    are removed; other files in `folder` stay. Of two writers at once the later one wins, with all its files.
    Raises ConfigError when the tokenizer of `saving` cannot be had, EmptyDatasetError when no dialogue is
    left to write, OSError when the folder cannot be written, and whatever `dialogues` raises.
    """
    saving = saving or DatasetFilesConfig()
    system = system and saving.system == "include"
    make_private(folder)
    sieve = Sieve(saving.filters, keep)
    dataset = DatasetFigures(
        by_split=_zeros(saving.splits),
        turns_by_split=_zeros(saving.splits),
        sizes=MessageSizes(token_counter(saving.tokenizer)),
        conversation=conversation,
        preferences=PreferenceFigures(saving.min_margin),
    )
    known = secrets_of(os.environ) if secrets is None else set(secrets)
    scrubber = Scrubber(known, machine_folders(folder))
    with writing_folder(folder) as writing:
        sifted = (dialogue for dialogue in dialogues if sieve(dialogue))
        thinned = sifted if dedup is None else dedup.filter(sifted)
        shown = (_shown(dialogue, saving) for dialogue in thinned)
        named = (_with_assistants(_with_judges(dialogue, judges)) for dialogue in shown)
        kept = map(scrubber.dialogue, named)
        context = FormatContext(
            reasoning=saving.reasoning,
            passages=saving.passages == "context",
            definitions={name: dict(tool) for name, tool in (tool_definitions or {}).items()},
            offered=offered,
            seed_metadata=seed_metadata,
            system=system,
            dimensions=dimensions,
            attributes=attributes,
            conversation=conversation,
            renamed=saving.output_columns,
            candidates=candidates,
            min_margin=saving.min_margin,
        )
        written = _write_dialogues(kept, writing, saving, context, dataset)
        if dedup is not None:
            sieve.refused[SEMANTIC_DEDUP] = dedup.n_refused
        if not dataset.dialogues.n_dialogues:
            raise EmptyDatasetError(sieve.read, sieve.refused, saving.filters)
        files = _files(writing, saving, written)
        if not files:
            raise NoPairsError(sieve.read, sieve.refused, dataset.dialogues.n_dialogues, saving.min_margin)
        names = [file.name for file in files]
        about = CardFacts(
            title=saving.card.title or title,
            figures=dataset,
            saving=saving,
            context=context,
            refused=sieve.refused,
            drop_reasons=drop_reasons or {},
            judges=[last_part_if_absolute(judge) for judge in judges],
            alpha=alpha,
        )
        names += _write_about(writing, files, about, sieve.read)
        move_into_place(writing, folder, names, OURS)
    return DatasetSummary(
        folder=folder,
        files=tuple(files),
        n_dialogues=dataset.dialogues.n_dialogues,
        by_split=dict(dataset.by_split),
        refused=dict(sieve.refused),
        by_language=dict(sorted(dataset.by_language.items())),
        figures=dataset.dialogues,
        documents=dict(sorted(dataset.given.items())),
        diversity=dataset.diversity.to_json(),
        sizes=dataset.sizes,
        conversation=tuple(conversation),
        preferences=dataset.preferences,
    )


def _write_dialogues(
    dialogues: Iterator[Dialogue],
    writing: Path,
    saving: DatasetFilesConfig,
    context: FormatContext,
    dataset: DatasetFigures,
) -> Counter[str]:
    """Write each dialogue to the files of its split, in every format, and count it in `dataset`.

    Returns the number of dialogues in each file.
    """
    written: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        sinks = open_sinks(stack, writing, saving, context)
        for dialogue, split in _with_splits(dialogues, saving.splits, writing):
            for sink in sinks[split]:
                written[sink.name] += sink.write(dialogue) > 0
            dataset.add(dialogue, split)
    return written


def _with_judges(dialogue: Dialogue, judges: Sequence[str]) -> Dialogue:
    """`dialogue` naming who has judged it: a run names its judge whether or not it was asked."""
    models = {str(role): model for role, model in dialogue.models.items() if role != Role.JUDGE}
    if dialogue.verdicts:
        named = [last_part_if_absolute(judge) for judge in judges] or [dialogue.models.get(Role.JUDGE, "")]
        if judge := ", ".join(filter(None, named)):
            models[Role.JUDGE.value] = judge
    return replace(dialogue, models=models)


def _with_assistants(dialogue: Dialogue) -> Dialogue:
    """`dialogue` naming who wrote its answers, where candidates may have models of their own."""
    models = [one.model for turn in dialogue.turns for one in turn.details.candidates if one.chosen]
    if not models:
        return dialogue
    named = ", ".join(dict.fromkeys(map(last_part_if_absolute, models)))
    return replace(dialogue, models={**dialogue.models, Role.ASSISTANT.value: named})


def _shown(dialogue: Dialogue, saving: DatasetFilesConfig) -> Dialogue:
    """`dialogue` without what `saving` leaves out of it."""
    if saving.system == "none" and dialogue.plan.system_prompt:
        dialogue = replace(dialogue, plan=replace(dialogue.plan, system_prompt=""))
    if saving.opening == "none" and dialogue.opening:
        dialogue = _without_opening(dialogue)
    return _without_passages(dialogue) if saving.passages == "none" else dialogue


def _without_opening(dialogue: Dialogue) -> Dialogue:
    """`dialogue` as if the user had begun it."""
    first, *rest = dialogue.turns
    details = replace(first.details, opening="", opening_reasoning="")
    return replace(dialogue, turns=(replace(first, details=details), *rest))


def _without_passages(dialogue: Dialogue) -> Dialogue:
    """`dialogue` without the texts of the passages in its evidence."""
    turns = []
    for turn in dialogue.turns:
        evidence = tuple(replace(item, text="") for item in turn.details.evidence)
        turns.append(replace(turn, details=replace(turn.details, evidence=evidence)))
    return replace(dialogue, turns=tuple(turns))


def _zeros(splits: Mapping[str, float]) -> Counter[str]:
    return Counter(dict.fromkeys(splits, 0))


def _with_splits(
    dialogues: Iterator[Dialogue], shares: Mapping[str, float], writing: Path
) -> Iterator[tuple[Dialogue, str]]:
    """Each dialogue with its split. The topics of all must be known for that, so the rest waits on disk."""
    if len(shares) == 1:
        split = next(iter(shares))
        yield from ((dialogue, split) for dialogue in dialogues)
        return
    assigner = SplitAssigner(shares)
    spool = writing / _SPOOL_NAME
    with spool.open("wb") as out:
        for dialogue in dialogues:
            assigner.add(dialogue.plan.topic)
            pickle.dump(dialogue, out, pickle.HIGHEST_PROTOCOL)
    with spool.open("rb") as back:
        while True:
            try:
                dialogue = pickle.load(back)
            except EOFError:
                break
            yield dialogue, assigner.split_of(dialogue.plan.topic)
    spool.unlink()


def _files(writing: Path, saving: DatasetFilesConfig, written: Mapping[str, int]) -> list[DatasetFile]:
    """Return the files to keep: those that hold something, by how many dialogues were `written` to each."""
    splits, forms = list(saving.splits), formats_of(saving)
    found = [(form.name, split, form.file_name(split)) for form in forms for split in splits]
    twins = [form for form in forms if has_twin(form, saving)]
    found += [(form.name, split, form.file_name(split, "jsonl")) for form in twins for split in splits]
    return [
        DatasetFile(
            format=name,
            split=split,
            name=path,
            dialogues=written[path],
            bytes=(writing / path).stat().st_size,
            sha256=_sha256(writing / path),
        )
        for name, split, path in found
        if written[path]
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_about(writing: Path, files: Sequence[DatasetFile], facts: CardFacts, read: int) -> list[str]:
    """Write plots, figures and card; returns their names, the card last."""
    saving, dataset = facts.saving, facts.figures
    plots = dataset_plots(dataset)
    (writing / "plots").mkdir()
    for name, svg in plots.items():
        (writing / "plots" / name).write_bytes(svg)
    by_format: dict[str, list[dict[str, Any]]] = {}
    loaded: dict[str, dict[str, str]] = {}
    for file in files:
        entry = {"split": file.split, "file": file.name, "dialogues": file.dialogues}
        entry |= {"bytes": file.bytes, "sha256": file.sha256}
        by_format.setdefault(file.format, []).append(entry)
        loaded.setdefault(file.format, {})[file.split] = file.name  # of Parquet and its twin the twin
    stats = {
        **dataset.to_json(),
        "read": read,
        "filters": {"settings": saving.filters.settings, "refused": dict(facts.refused)},
        "drop_reasons": dict(facts.drop_reasons),
        "judges": {"names": list(facts.judges), "alpha": facts.alpha},
        "splits": dict(saving.splits),
        "output_columns": dict(saving.output_columns),
        "passages": saving.passages,
        "formats": by_format,
    }
    text = json.dumps(clean(stats), ensure_ascii=False, indent=2, sort_keys=True)
    (writing / STATS_NAME).write_text(text + "\n", encoding="utf-8")
    card = dataset_card(replace(facts, files=loaded, plots=list(plots)))
    (writing / CARD_NAME).write_text(card, encoding="utf-8")
    return [*(f"plots/{name}" for name in plots), STATS_NAME, CARD_NAME]
