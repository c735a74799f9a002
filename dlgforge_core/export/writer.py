"""Writing a dataset: with bounded memory, and whole or not at all.

The layout is one that Hugging Face's `load_dataset(folder, <format>)` reads:

    README.md              the dataset card; its header names the files of every configuration and split
    dataset_stats.json     figures, and each file with its size and SHA-256
    plots/*.svg
    data/<format>/<split>.jsonl (or .parquet), or <split>-00000-of-00012.jsonl and so on

`load_dataset` takes one builder for all configurations of a folder, that of the first one's files. So where
there are JSONL formats as well, the rows of the Parquet files stand beside them as JSONL, and the card names
those for the configuration `parquet`.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from dlgforge_core.common.processes import most_processes, spread
from dlgforge_core.config.saving import DatasetFilesConfig
from dlgforge_core.dialogue import Dialogue
from dlgforge_core.export.card import CARD_NAME, CardFacts, dataset_card
from dlgforge_core.export.columns import NO_OPTIONAL_COLUMNS, OptionalColumns
from dlgforge_core.export.filters import SEMANTIC_DEDUP, EmptyDatasetError, NoPairsError, Predicate, Sieve
from dlgforge_core.export.folder import make_private, move_into_place, writing_folder
from dlgforge_core.export.format_context import FormatContext
from dlgforge_core.export.formats import FORMATS
from dlgforge_core.export.plots import dataset_plots
from dlgforge_core.export.preference_figures import PreferenceFigures
from dlgforge_core.export.records import clean
from dlgforge_core.export.scrub import Scrubber, last_part_if_absolute, machine_folders, secrets_of
from dlgforge_core.export.shards import Shard, ShardWriter, WrittenShard, shards_of
from dlgforge_core.export.shown import shown
from dlgforge_core.export.sinks import formats_of, has_twin
from dlgforge_core.export.stats import STATS_NAME, DatasetFigures
from dlgforge_core.export.token_counts import MessageSizes
from dlgforge_core.quality.figures import DialogueFigures
from dlgforge_core.usage import Usage

_WORTH_A_PROCESS = 1_000
"""Dialogues of a shard; a process takes a second or two to start."""
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

    @property
    def pattern(self) -> str:
        """Return the name, or what all shards of the split are named like."""
        folder, _, name = self.name.rpartition("/")
        stem, _, suffix = name.rpartition(".")
        return f"{folder}/{self.split}-*.{suffix}" if stem != self.split else self.name


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
    usage: Usage = field(default_factory=dict)


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
    columns: OptionalColumns = NO_OPTIONAL_COLUMNS,
    secrets: Iterable[str] | None = None,
) -> DatasetSummary:
    """Write `dialogues` to `folder` as `saving` says, with a card, figures and plots beside them.

    `keep` are named predicates that say which dialogues are written, asked once for each, in order, after
    the filters of `saving`; `dedup` thins out what is left. `drop_reasons` counts the dialogues that
    were given up, `tool_definitions` are the assistant's tools by name, `judges` those who judged when it was
    not the model that they name, `alpha` how far they agree, `offered` the tools that could be called, and
    `columns` those that not every dataset has; system messages are one only where `saving` has them as well.
    The texts of passages are those that the evidence of `dialogues` carries. What is in `secrets` (by default
    this process's) is struck out everywhere.

    `dialogues` is read once, and kept on disk between. Memory grows with the seed topics, languages and
    documents, not with the dialogues. Files are the same from any number of processes. When the same is
    written again after a kill, the shards that were finished are kept. Files are written in a temporary
    folder inside `folder` and then moved into place: readers never see half a file, and a failure leaves the
    old dataset.
    The dataset takes the place of the one before: its files of formats and splits that are no longer written
    are removed; other files in `folder` stay. Of two writers at once the later one wins, with all its files.
    Raises ConfigError when the tokenizer of `saving` cannot be had, EmptyDatasetError when no dialogue is
    left to write, OSError when the folder cannot be written, and whatever `dialogues` raises.
    """
    saving = saving or DatasetFilesConfig()
    columns = replace(columns, system=columns.system and saving.system == "include")
    make_private(folder)
    sieve = Sieve(saving.filters, keep)
    known = secrets_of(os.environ) if secrets is None else set(secrets)
    scrubber = Scrubber(known, machine_folders(folder))
    writer = ShardWriter(saving, _format_context(saving, columns, tool_definitions or {}, offered))
    dataset = replace(
        writer.no_figures(), by_split=_zeros(saving.splits), turns_by_split=_zeros(saving.splits)
    )
    with writing_folder(folder) as writing:
        thinned = _thinned(dialogues, sieve, dedup)
        # Scrubbed before they are on disk: a killed writer leaves them there.
        kept = (scrubber.dialogue(shown(dialogue, saving, judges)) for dialogue in thinned)
        files = _write_files(kept, writing, writer, dataset, sieve)
        about = CardFacts(
            title=saving.card.title or title,
            figures=dataset,
            saving=saving,
            context=writer.context,
            refused=sieve.refused,
            drop_reasons=drop_reasons or {},
            judges=[last_part_if_absolute(judge) for judge in judges],
            alpha=alpha,
        )
        names = [file.name for file in files] + _write_about(writing, files, about, sieve.read)
        move_into_place(writing, folder, names, OURS)
    return _summary(folder, files, dataset, sieve.refused)


def _format_context(
    saving: DatasetFilesConfig,
    columns: OptionalColumns,
    definitions: Mapping[str, Mapping[str, Any]],
    offered: Sequence[str],
) -> FormatContext:
    return FormatContext(
        reasoning=saving.reasoning,
        passages=saving.passages == "context",
        definitions={name: dict(tool) for name, tool in definitions.items()},
        offered=offered,
        optional=columns,
        renamed=saving.output_columns,
        min_margin=saving.min_margin,
        arguments=saving.tool_arguments,
    )


def _thinned(dialogues: Iterable[Dialogue], sieve: Sieve, dedup: Dedup | None) -> Iterator[Dialogue]:
    """Yield the dialogues that are kept; in the end the sieve knows why the others are not."""
    sifted = (dialogue for dialogue in dialogues if sieve(dialogue))
    if dedup is None:
        yield from sifted
        return
    yield from dedup.filter(sifted)
    sieve.refused[SEMANTIC_DEDUP] = dedup.n_refused


def _write_files(
    dialogues: Iterable[Dialogue], writing: Path, writer: ShardWriter, dataset: DatasetFigures, sieve: Sieve
) -> list[DatasetFile]:
    """Write the files of all splits, and count what is in them in `dataset`.

    Raises EmptyDatasetError, by what the `sieve` knows, when there is no dialogue, or none for any format.
    """
    saving = writer.saving
    written = _write_shards(shards_of(dialogues, writing, writer), writer, dataset)
    if not dataset.dialogues.n_dialogues:
        raise EmptyDatasetError(sieve.read, sieve.refused, saving.filters)
    if files := _files(writing, saving, written):
        return files
    raise NoPairsError(sieve.read, sieve.refused, dataset.dialogues.n_dialogues, saving.min_margin)


def _summary(
    folder: Path, files: Sequence[DatasetFile], dataset: DatasetFigures, refused: Mapping[str, int]
) -> DatasetSummary:
    return DatasetSummary(
        folder=folder,
        files=tuple(files),
        n_dialogues=dataset.dialogues.n_dialogues,
        by_split=dict(dataset.by_split),
        refused=dict(refused),
        by_language=dict(sorted(dataset.by_language.items())),
        figures=dataset.dialogues,
        documents=dict(sorted(dataset.given.items())),
        diversity=dataset.diversity.to_json(),
        sizes=dataset.sizes,
        conversation=tuple(dataset.conversation),
        preferences=dataset.preferences,
        usage=dict(sorted(dataset.usage.items())),
    )


def _write_shards(
    shards: Iterator[Shard], writer: ShardWriter, dataset: DatasetFigures
) -> list[WrittenShard]:
    """Write the shards, as many at once as there are cores, and count them in `dataset`."""
    first = next(shards, None)
    if first is None:
        return []
    full = len(first.places) == writer.saving.max_shard_dialogues
    worth = full and len(first.places) >= _WORTH_A_PROCESS
    processes = most_processes() if worth else 1
    written = []
    for shard in spread(writer, itertools.chain([first], shards), processes):
        dataset.merge(shard.figures)
        written.append(replace(shard, figures=DatasetFigures()))
    return written


def _zeros(splits: Mapping[str, float]) -> Counter[str]:
    return Counter(dict.fromkeys(splits, 0))


def _files(writing: Path, saving: DatasetFilesConfig, written: Sequence[WrittenShard]) -> list[DatasetFile]:
    """Put the files that hold something under the names that they are to have, and return them."""
    forms = formats_of(saving)
    kinds = [(form, form.suffix) for form in forms]
    kinds += [(form, "jsonl") for form in forms if has_twin(form, saving)]
    files: list[DatasetFile] = []
    for form, suffix in kinds:
        for split in saving.splits:
            here = [
                file
                for shard in written
                if shard.split == split
                for file in shard.files
                if (file.format, file.suffix) == (form.name, suffix) and file.dialogues
            ]
            for number, file in enumerate(here):
                name = form.file_name(split, suffix, number, len(here))
                (writing / name).parent.mkdir(parents=True, exist_ok=True)
                _link(file.path, writing / name)
                files.append(DatasetFile(form.name, split, name, file.dialogues, file.bytes, file.sha256))
    return files


def _link(path: Path, target: Path) -> None:
    """Have a file under another name as well: the shard stays whole until the dataset is there."""
    try:
        os.link(path, target)
    except OSError:  # no such thing on this file system
        path.rename(target)


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
        loaded.setdefault(file.format, {})[file.split] = file.pattern  # of Parquet and its twin the twin
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
