"""The dataset card: what Hugging Face reads in its header, and what people read below. Only what is so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from dlgforge_core.config.saving import DatasetFilesConfig
from dlgforge_core.dialogue import Ending
from dlgforge_core.export.card_text import code, counted, plain, table
from dlgforge_core.export.diversity_card import diversity_section
from dlgforge_core.export.filters import MIN_SCORE, REASONS, SEMANTIC_DEDUP, UNJUDGED
from dlgforge_core.export.format_context import FormatContext
from dlgforge_core.export.formats import FORMATS, Format
from dlgforge_core.export.language_tags import language_tag
from dlgforge_core.export.records import clean
from dlgforge_core.export.schema import attribute_columns
from dlgforge_core.export.scrub import MAX_TOOL_TEXT_CHARS
from dlgforge_core.export.stats import STATS_NAME, DatasetFigures
from dlgforge_core.verdicts import MAX_SCORE

CARD_NAME = "README.md"
_OTHER_TOOLS_SHOWN = 20  # that were called and are not known to have been there
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
_ROLES = {
    "qa_generator": "the user simulator asked",
    "kb_responder": "the assistant answered",
    "qa_judge": "the judge scored",
}
_REFUSALS = {
    UNJUDGED: "had no verdict",
    MIN_SCORE: "had a lower mean score than was asked",
    REASONS: "had a verdict with a reason that was ruled out",
    SEMANTIC_DEDUP: "opened like another one in other words",
}


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card is made of.

    `files` gives, by format, the path of the file that `load_dataset` reads for each split; `context` is what
    the formats were written with.
    """

    title: str
    figures: DatasetFigures
    saving: DatasetFilesConfig
    context: FormatContext
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    drop_reasons: Mapping[str, int] = field(default_factory=dict)
    judges: Sequence[str] = ()
    alpha: float | None = None
    plots: Sequence[str] = ()

    @property
    def tools(self) -> bool:
        """Whether the assistant had tools, called or not."""
        figures = self.figures
        of_dialogues = figures.dialogues
        called = of_dialogues.tool_calls or figures.preferences.tools
        return bool(self.context.offered or of_dialogues.tools_offered or called)

    @property
    def format_context(self) -> FormatContext:
        """What of the dataset its formats depend on, now that all dialogues are known."""
        return replace(
            self.context,
            tools=self.tools,
            passages=self.context.passages and bool(self.figures.passage_texts),
            sharded=any("*" in path for files in self.files.values() for path in files.values()),
            siblings=len(self.saving.formats) > 1,
            opened=bool(self.figures.dialogues.opened),
            roles=list(self.figures.models),
        )


def dataset_card(facts: CardFacts) -> str:
    """README.md of a dataset folder."""
    head = yaml.safe_dump(clean(_header(facts)), sort_keys=False, allow_unicode=True, width=110)
    body = "\n\n".join("\n".join(part) for part in _body(facts) if part)
    card: str = clean(f"---\n{head}---\n\n{body}\n")
    return card


def _header(facts: CardFacts) -> dict[str, Any]:
    figures = facts.figures
    tags = sorted({tag for language in figures.by_language if (tag := language_tag(language))})
    head: dict[str, Any] = {"pretty_name": " ".join(facts.title.split())}
    if facts.saving.card.license:
        head["license"] = facts.saving.card.license
    if tags:
        head["language"] = tags
    head["task_categories"] = ["text-generation"]
    size = figures.dialogues.n_dialogues
    head["size_categories"] = [next((name for most, name in _SIZES if size < most), "10M<n<100M")]
    head["tags"] = [
        "synthetic",
        "conversational",
        "multi-turn",
        *(["grounded"] if figures.given else []),
        *(["tool-use"] if figures.dialogues.tool_calls else []),
        "dlgforge",
    ]
    infos: list[dict[str, Any]] = []
    configs: list[dict[str, Any]] = []
    for name, files in facts.files.items():
        data_files = [{"split": split, "path": path} for split, path in files.items()]
        configs.append({"config_name": name, "data_files": data_files})
        if any(path.endswith(".jsonl") for path in files.values()):  # Parquet has its schema
            infos.append({"config_name": name, "features": _features(FORMATS[name], facts.format_context)})
    if configs:
        configs[0]["default"] = True
    if infos:
        head["dataset_info"] = infos
    head["configs"] = configs
    return head


def _features(form: Format, context: FormatContext) -> list[dict[str, Any]]:
    renamed = form.renamed(context)
    return [{**item, "name": renamed.get(item["name"], item["name"])} for item in form.features(context)]


def _body(facts: CardFacts) -> Iterator[list[str]]:
    figures = facts.figures
    n, turns = figures.dialogues.n_dialogues, figures.dialogues.n_turns
    yield [f"# {plain(facts.title)}"]
    yield [
        f"{counted(n, 'dialogue')} with {counted(turns, 'turn')} (a question and its answer each), written "
        "by language models and made with dlgforge. No person took part in them."
    ]
    if turns:
        words, tokens = figures.sizes.words, figures.sizes.tokens
        yield [
            f"Words: {words['user']} in the questions, {words['assistant']} in the answers. Tokens: "
            f"{tokens['user']} and {tokens['assistant']}, {plain(figures.sizes.counted_by)}. In scripts "
            "without spaces a character counts as a word."
        ]
    if description := facts.saving.card.description.strip():
        yield [description]
    yield ["## How it was made"]
    yield list(_made(facts))
    if figures.by_language:
        yield ["## Languages"]
        yield table(
            ("language", "tag", "dialogues"),
            [
                (code(language), language_tag(language) or "none known", str(count))
                for language, count in sorted(figures.by_language.items())
            ],
        )
    yield from diversity_section(figures.diversity.to_json())
    yield ["## Splits"]
    yield _splits_text(facts)
    yield table(
        ("split", "share asked", "dialogues", "turns"),
        [
            (code(split), f"{facts.saving.splits[split]:g}", str(count), str(figures.turns_by_split[split]))
            for split, count in figures.by_split.items()
        ],
    )
    yield ["## How to load it"]
    yield from _loading(facts)
    for name in facts.files:
        yield [f"## Columns of `{name}`"]
        yield [FORMATS[name].words + ":"]
        yield _columns(facts, name)
    if facts.plots:
        yield ["## Plots"]
        yield [f"![{name.removesuffix('.svg')}](plots/{name})" for name in facts.plots]
    yield ["## Known limits"]
    yield [f"- {limit}" for limit in _limits(facts)]


def _made(facts: CardFacts) -> Iterator[str]:
    figures = facts.figures
    for role, text in _ROLES.items():
        if models := sorted(figures.models.get(role, ())):
            yield f"- As {text}: {', '.join(map(code, models))}."
    for role in sorted(set(figures.models) - set(_ROLES)):
        yield f"- {code(role)}: {', '.join(map(code, sorted(figures.models[role])))}."
    mean = figures.dialogues.mean_score
    if mean is not None:
        verdicts = figures.dialogues.scores.total()
        yield (
            f"- {counted(verdicts, 'verdict')} on {counted(figures.judged, 'dialogue')}, "
            f"mean score {mean:.2f} of {MAX_SCORE}."
        )
        if ratings := figures.dialogues.ratings:
            means = ", ".join(f"{code(name)} {rated.mean:.2f}" for name, rated in sorted(ratings.items()))
            yield (
                f"- Mean ratings by the rubric: {means}. Each verdict has its own in `dimensions`, and "
                "whether question and answer are good enough in `question_ok` and `answer_ok`."
            )
        if len(facts.judges) > 1:
            stated = "not defined" if facts.alpha is None else f"{facts.alpha:.3f}"
            yield (
                f"- {len(facts.judges)} judges gave verdicts: their agreement, Krippendorff's alpha over all "
                f"that was judged, before any filter, is {stated}."
            )
    else:
        yield "- Nothing was judged."
    yield from _course(figures)
    yield from (f"- {line}" for line in figures.preferences.lines(written="dpo" in facts.saving.formats))
    if figures.off_topic:
        yield (
            f"- {counted(figures.off_topic, 'dialogue')} went off the seed topic, to what the document "
            "says: there `topic` is empty, and `documents` names it."
        )
    if figures.given:
        yield (
            f"- Passages of {counted(len(figures.given), 'document')} were given. Answers written with some: "
            f"{figures.dialogues.grounded_turns} of {figures.dialogues.n_turns}; answers that draw on them: "
            f"{figures.dialogues.cited_turns}."
        )
    yield from _tools(facts)
    for name, count in facts.refused.items():
        text = _REFUSALS.get(name, f"were refused by the filter {code(name)}")
        yield f"- Left out by a filter: {counted(count, 'dialogue')} that {text}{_bound(facts, name)}."
    for reason, count in sorted(facts.drop_reasons.items()):
        yield f"- Given up while generating, {code(reason)}: {counted(count, 'dialogue')}."


def _tools(facts: CardFacts) -> Iterator[str]:
    """Which tools there are, and how often each was called."""
    figures = facts.figures.dialogues
    known = {*facts.context.offered, *figures.tools_offered}
    others = [name for name, _ in figures.tool_calls.most_common() if name not in known]
    for name in sorted([*known, *others[:_OTHER_TOOLS_SHOWN]]):
        failed = f", {figures.tool_errors[name]} of them in vain" if figures.tool_errors[name] else ""
        had = f", in {counted(n, 'dialogue')} that had it" if (n := figures.tools_offered[name]) else ""
        definition = facts.context.definitions.get(name, {}).get("function", {})
        about = f" {plain(description)}" if (description := definition.get("description")) else ""
        calls = counted(figures.tool_calls[name], "time")
        yield f"- The tool {code(name)} was called {calls}{failed}{had}.{about}"


def _course(figures: DatasetFigures) -> Iterator[str]:
    """Who began and who ended dialogues, and whether users met their goals."""
    of_dialogues = figures.dialogues
    if of_dialogues.opened:
        yield f"- The assistant opened {counted(of_dialogues.opened, 'dialogue')}, before any question."
    if ended := of_dialogues.ended_by[Ending.USER]:
        yield f"- Ended by the user before as many turns as were planned: {counted(ended, 'dialogue')}."
    if goals := of_dialogues.goals:
        states = ", ".join(f"{state} in {goals[state]}" for state in sorted(goals))
        yield f"- The user has a goal in {counted(goals.total(), 'dialogue')}: {states}."


def _bound(facts: CardFacts, name: str) -> str:
    if name == MIN_SCORE:
        return f" ({facts.saving.filters.min_score:g})"
    return f" ({', '.join(map(code, facts.saving.filters.labels))})" if name == REASONS else ""


def _splits_text(facts: CardFacts) -> list[str]:
    if len(facts.saving.splits) == 1:
        return ["Everything is in one split."]
    return [
        "All dialogues on one seed topic are in one split, and so are those on seed topics that share an id",
        "or, in one language, the subject. Seed topics are dealt out by a keyed hash of their ids: more",
        "dialogues on the same topics never move one to another split. Shares are of seed topics.",
    ]


def _loading(facts: CardFacts) -> Iterator[list[str]]:
    if not facts.files:
        return
    name, files = next(iter(facts.files.items()))
    lines = ["```python", "from datasets import load_dataset", ""]
    lines += [f'{split} = load_dataset("path/or/repo", "{name}", split="{split}")' for split in files]
    yield [*lines, "```"]
    listed = ", ".join(f"`{name}`" for name in facts.files)
    yield [
        f"Configurations: {listed}. Each holds the same dialogues in the same order{_partial(facts)}, "
        f"{_layout(facts)}. Figures of the whole are in `{STATS_NAME}`."
    ]
    for name in facts.files:
        yield from FORMATS[name].notes(facts.format_context)


def _layout(facts: CardFacts) -> str:
    if not facts.format_context.sharded:
        return "one file a split: `data/<configuration>/<split>`"
    most = counted(facts.saving.max_shard_dialogues, "dialogue")
    return (
        f"in files of {most} at most: `data/<configuration>/<split>`, and of a split with more "
        "`<split>-00000-of-00012` and so on"
    )


def _partial(facts: CardFacts) -> str:
    partial = [code(name) for name in facts.files if FORMATS[name].partial]
    return f" ({', '.join(partial)} those that have rows)" if partial else ""


def _columns(facts: CardFacts, name: str) -> list[str]:
    form, context = FORMATS[name], facts.format_context
    renamed = form.renamed(context)
    texts = {**form.column_texts, **attribute_columns(context.optional.attributes)}
    rows = [(code(renamed.get(column, column)), texts[column]) for column in form.columns(context)]
    return table(("column", "what it holds"), rows)


def _limits(facts: CardFacts) -> Iterator[str]:
    figures = facts.figures
    yield "What models say may be wrong, and may carry the biases of the models above."
    if figures.dialogues.mean_score is not None:
        yield "Scores and reasons are a model's, too; no person checked them."
    else:
        yield "The answers were not checked, by a model or a person."
    if len(facts.saving.splits) > 1:
        yield (
            "Subjects that are alike but have different names, or are translations of one another under "
            "different seed ids, are not recognised as one and may be in two splits."
        )
    if figures.given:
        yield from _passage_limits(facts)
    if figures.dialogues.tool_calls:
        yield (
            f"Results of tools are cut at {MAX_TOOL_TEXT_CHARS} characters, and what looks like a key or a "
            "path of a machine is taken out of them. The ShareGPT files have no tool calls."
        )
    if unknown := sorted(name for name in figures.by_language if language_tag(name) is None):
        yield f"No language tag is known for {', '.join(map(code, unknown))}."
    if not facts.saving.card.license:
        yield "No licence is stated here: it follows from the models, the seed topics and the documents."


def _passage_limits(facts: CardFacts) -> Iterator[str]:
    figures = facts.figures
    if not figures.passage_texts:
        yield "Passages are named in the columns, not quoted."
    else:
        gone = figures.passages - figures.passage_texts
        yield (
            f"The texts of {figures.passage_texts} of {figures.passages} passages are in this dataset, and "
            "with them the words of the documents."
            + (f" Those of {gone} were not kept, and are empty." if gone else "")
        )
    if figures.dialogues.tool_calls:
        yield "Results of the assistant's searches in the documents quote them, in any case."
    if len(facts.saving.splits) > 1:
        yield "Splits share documents and passages: only seed topics are kept apart."
