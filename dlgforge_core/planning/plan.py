"""Planning: which dialogues are to be made, decided from the inputs alone.

Pure and deterministic: no I/O, no clock, no shared random state. Every choice is a function of (run.seed,
what is chosen, batch, language, ordinal), so that any dialogue of a plan can be worked out on any machine
without the ones before it.

- **Topics and personas** go round in cycles: each is used once before any is used again, in an order
  shuffled anew for every round; topics, user personas and assistant personas have cycles of their own.
- **Turn counts** come from one uniform number each, by the inverse of the distribution's CDF, clamped to
  [min_turns, max_turns] (so the bounds take the tails' weight): `uniform`, every count alike; `poisson`, with
  the given mean; `exponential`, the value rounded to the nearest whole number, which keeps its mean.
- **Documents** take the place of topics where there are none, see `document_plan`.
- **Spares**: a dialogue that takes the place of another is planned as that one was, under an id that is made
  of the other's; so whatever is spread evenly over a plan stays so, however many are replaced.
- **System prompts and goals** go round in cycles, too, in which each comes as often as its weight says; of
  few-shot examples each dialogue gets as many different ones as asked for, and all come equally often.
- **Tools**: of the declared functions each dialogue gets as many as asked for, and all come equally often;
  initial states go round in cycles, as system prompts do.
- **Attributes** are drawn one after the other over a seed batch's languages in turn, so that each prefix has
  their shares (see `attribute_draws`); they alone depend on the dialogues before.
- **Extending**: neither a plan's id nor its dialogues depend on how many there are, so a greater
  `run.total_samples` continues the same plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from dlgforge_core.common.hints import nearest
from dlgforge_core.config import GenerationConfig, GoalConfig, LlmConfig, RunConfig, SystemPromptConfig
from dlgforge_core.config.expectations import tools_in
from dlgforge_core.dialogue import DialoguePlan, Persona
from dlgforge_core.errors import ConfigError
from dlgforge_core.languages import is_known, known_names
from dlgforge_core.planning.attribute_draws import AttributeSequence
from dlgforge_core.planning.document_plan import DocumentDraws, topic_of_document
from dlgforge_core.planning.draws import block_of, hex_digest, in_cycle, several_in_cycle, uniform
from dlgforge_core.planning.fingerprint import NO_SOURCE, ContentSource, content_fingerprint
from dlgforge_core.planning.personas import Personas
from dlgforge_core.planning.seed_languages import seeds_for, unused_languages, unused_note, unused_seeds
from dlgforge_core.planning.seeds import SeedBatch
from dlgforge_core.planning.tool_draws import ToolDraws
from dlgforge_core.planning.turn_counts import TurnCounts
from dlgforge_core.prompting.system_prompts import expectation_of, goal_of, state_of, system_prompt_of
from dlgforge_core.sources import FromSeed, SeedTopic

T = TypeVar("T")
D = TypeVar("D", SystemPromptConfig, GoalConfig)
_PURPOSES = (
    "turns",
    "topic",
    "user",
    "assistant",
    "system_prompt",
    "examples",
    "goal",
    "tools",
    "tool_state",
)
"""What is drawn for a dialogue, each by a key of its own."""


@dataclass(frozen=True)
class Plan:
    """The dialogues of one seed batch in one language, under one content fingerprint.

    `plan_id` depends on these three alone, so a plan with more dialogues is the same plan, continued.
    """

    fingerprint: str
    batch: str
    batch_digest: str
    language: str
    n_dialogues: int
    seed: int
    turns: TurnCounts
    topics: tuple[SeedTopic, ...]
    personas: Personas
    system_prompts: tuple[str, ...] = ()
    """A cycle of templates, in which each comes as often as its weight says."""
    goals: tuple[GoalConfig, ...] = ()
    """As `system_prompts`, of the user's goal and what it expects."""
    from_seed: FromSeed | None = None
    examples: tuple[int, ...] = ()
    """The few-shot examples of which each dialogue gets `examples_each`."""
    examples_each: int = 0
    documents: DocumentDraws | None = None
    """What dialogues are made from in place of topics; None where there are topics."""
    tools: ToolDraws | None = None
    """What the functions of a dialogue are drawn from; None where none are declared."""
    attributes: AttributeSequence | None = field(default=None, compare=False)
    """What the attributes are drawn from, shared with the batch's other languages; None without any."""

    @cached_property
    def plan_id(self) -> str:
        """32 hex digits, the same on any machine for the same inputs."""
        return hex_digest([self.fingerprint, self.batch, self.batch_digest, self.language], 16)

    def dialogue(self, ordinal: int, attempt: int = 0) -> DialoguePlan:
        """Return the dialogue number `ordinal`, from 0, or its spare number `attempt`.

        Raises IndexError outside the plan.
        """
        if not 0 <= ordinal < self.n_dialogues:
            raise IndexError(f"dialogue {ordinal} of a plan of {self.n_dialogues}")
        if attempt > 0:
            return spare_of(self.dialogue(ordinal, attempt - 1))
        document = self.documents.of(ordinal) if self.documents is not None else None
        plan = DialoguePlan(
            dialogue_id=self.dialogue_id(ordinal),
            ordinal=ordinal,
            language=self.language,
            n_turns=self.turns.at(uniform(self._keys["turns"], ordinal)),
            topic=topic_of_document(document, self.language) if document else self._topic(ordinal),
            document=document,
            user_persona=self._persona("user", self.personas.user, ordinal),
            assistant_persona=self._persona("assistant", self.personas.assistant, ordinal),
            examples=self._examples(ordinal) if self.examples_each else None,
            attributes=self.attributes.of(self.language, ordinal) if self.attributes else {},
        )
        if self.from_seed is not None:
            plan = with_conversation(plan, self.from_seed)
        if self.system_prompts:
            template = self._drawn("system_prompt", self.system_prompts, ordinal)
            plan = replace(plan, system_prompt=system_prompt_of(template, plan))
        if self.goals:
            drawn = self._drawn("goal", self.goals, ordinal)
            goal = goal_of(drawn.text, plan)
            plan = replace(plan, goal=goal, expects=expectation_of(drawn, plan) if goal else {})
        if self.tools is not None:
            state = self.tools.state_at(self._keys["tool_state"], ordinal)
            tools = self.tools.names_at(self._keys["tools"], ordinal, tools_in(plan.expects))
            plan = replace(plan, tools=tools, tool_state=state_of(state, plan))
        return plan

    def _drawn(self, purpose: str, cycle: Sequence[T], ordinal: int) -> T:
        """Return the one of a cycle that comes at `ordinal`."""
        return cycle[in_cycle(self._keys[purpose], len(cycle), ordinal)]

    def dialogue_id(self, ordinal: int) -> str:
        """Return the id of a dialogue: 24 hex digits."""
        digest = hashlib.blake2b(ordinal.to_bytes(8, "little"), key=self.plan_id.encode(), digest_size=12)
        return digest.hexdigest()

    def dialogues(self) -> Iterator[DialoguePlan]:
        """All dialogues in order, each made when it is asked for."""
        return (self.dialogue(ordinal) for ordinal in range(self.n_dialogues))

    @cached_property
    def _keys(self) -> dict[str, bytes]:
        return {
            p: bytes.fromhex(hex_digest([self.seed, p, self.batch, self.language], 16)) for p in _PURPOSES
        }

    def _topic(self, ordinal: int) -> SeedTopic:
        return self.topics[in_cycle(self._keys["topic"], len(self.topics), ordinal)]

    def _persona(self, role: str, personas: tuple[Persona, ...], ordinal: int) -> Persona:
        return personas[in_cycle(self._keys[role], len(personas), ordinal)]

    def _examples(self, ordinal: int) -> tuple[int, ...]:
        if not self.examples:
            return ()
        drawn = several_in_cycle(self._keys["examples"], len(self.examples), ordinal, self.examples_each)
        return tuple(self.examples[i] for i in drawn)


@dataclass(frozen=True, slots=True)
class Planning:
    """The plans of a run, by batch and then language, and what a reader should know about them."""

    plans: tuple[Plan, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    documents: SeedBatch | None = None
    """What stands for the seed batches where dialogues are made from documents alone."""

    @property
    def n_dialogues(self) -> int:
        """Dialogues in all plans together."""
        return sum(plan.n_dialogues for plan in self.plans)


def spare_id(dialogue_id: str) -> str:
    """Return the id of the dialogue that takes the place of another: 24 hex digits."""
    return hashlib.blake2b(b"spare", key=dialogue_id.encode(), digest_size=12).hexdigest()


def spare_of(plan: DialoguePlan) -> DialoguePlan:
    """Return the dialogue that takes the place of another: the same but for its id, which seeds its calls."""
    return replace(plan, dialogue_id=spare_id(plan.dialogue_id))


def with_conversation(plan: DialoguePlan, from_seed: FromSeed) -> DialoguePlan:
    """Return a dialogue with what is made of its seed's conversation.

    Turns that were drawn follow what is continued; else there are as many as the seed has.
    """
    given = len(plan.topic.exchanges)
    whole = sum(bool(one.assistant) for one in plan.topic.exchanges)
    n_turns = whole + plan.n_turns if from_seed is FromSeed.CONTINUE else given
    # Nobody translates what is only told.
    system = "" if from_seed is FromSeed.TRANSLATE else plan.topic.system
    return replace(plan, n_turns=n_turns, from_seed=from_seed, system_prompt=system)


def plan_run(
    generation: GenerationConfig,
    llm: LlmConfig,
    personas: Personas,
    batches: Sequence[SeedBatch],
    *,
    languages: Sequence[str] | None = None,
    batch_names: Sequence[str] | None = None,
    source: ContentSource = NO_SOURCE,
) -> Planning:
    """Plan a run: `run.total_samples` dialogues for each seed batch, shared among the target languages.

    The first languages in `run.target_languages` take what does not divide evenly. `languages` and
    `batch_names` select partitions; what is planned for a partition does not depend on the selection. A
    batch without topics in a language has no plan for it, and its share goes to nobody: `notes` says so.
    Raises ConfigError for an unknown selection, and for a language without topics in any selected batch.
    """
    chosen = select_batches(batches, batch_names)
    shares = shares_of(generation.run)
    wanted = select_languages(generation.run, languages)
    fallback = generation.run.fallback_language
    available = {batch.name: batch.languages for batch in chosen}
    # Attributes are drawn over all languages, whichever are selected.
    languages_read = generation.run.target_languages if generation.attributes else wanted
    topics = {
        (batch.name, language): seeds_for(batch, language, generation)
        for batch in chosen
        for language in languages_read
    }
    for language in wanted:
        if not any(topics[batch.name, language] for batch in chosen):
            has = "; ".join(f"{name} has {', '.join(known)}" for name, known in available.items())
            if notes := [note for batch in chosen for note in unused_seeds(batch, generation)]:
                raise ConfigError(f"there is no seed to use in {language!r} ({has}): {'; '.join(notes)}")
            if generation.conversation.from_seed == "translate":
                raise ConfigError(
                    f"run.target_languages names {language!r}, and all conversations are in it ({has}); with "
                    "conversation.from_seed = translate give others, or leave the language out"
                )
            raise ConfigError(
                f"run.target_languages names {language!r}, but no seed batch has topics in it ({has}); "
                "add topics, leave the language out, or set run.fallback_language to one that has topics"
            )
    fingerprint = content_fingerprint(generation, llm, personas, source)
    plans: list[Plan] = []
    notes = [
        f"run.total_samples = {generation.run.samples} leaves no dialogue for {language!r}"
        for language in wanted
        if not shares[language]
    ]
    notes += unknown_languages(wanted)
    for batch in chosen:
        with_topics = [language for language in languages_read if topics[batch.name, language]]
        attributes = attributes_of(generation, batch.name, with_topics)
        for language in wanted:
            if not (n_dialogues := shares[language]):
                continue
            if found := topics[batch.name, language]:
                plan = plan_of(generation, fingerprint, personas, batch, language, n_dialogues)
                plans.append(replace(plan, topics=found, attributes=attributes))
            else:
                notes.append(
                    f"seed batch {batch.name!r} has no topics in {language!r}: "
                    f"{n_dialogues} dialogues are not made"
                )
        notes += unused_seeds(batch, generation)
        if generation.conversation.from_seed == "translate":
            continue
        unused = unused_languages(batch, generation.run.target_languages, fallback)
        notes += [f"seed batch {batch.name!r}: {unused_note(*pair)}" for pair in unused.items()]
    return Planning(tuple(plans), fingerprint, tuple(notes))


def plan_of(
    generation: GenerationConfig,
    fingerprint: str,
    personas: Personas,
    batch: SeedBatch,
    language: str,
    n_dialogues: int,
) -> Plan:
    """Return the plan of a batch in a language, without topics or documents yet."""
    run, examples = generation.run, generation.examples
    from_seed = generation.conversation.from_seed
    return Plan(
        fingerprint=fingerprint,
        batch=batch.name,
        batch_digest=batch.digest,
        language=language,
        n_dialogues=n_dialogues,
        seed=run.seed,
        turns=TurnCounts.from_config(run),
        topics=(),
        personas=personas,
        system_prompts=tuple(one.text for one in _cycle(generation.conversation.system_prompts, language)),
        goals=_cycle(generation.conversation.goals, language),
        from_seed=FromSeed(from_seed) if from_seed else None,
        examples=tuple(examples.in_language(language)),
        examples_each=examples.per_dialogue or 0 if examples.exchanges else 0,
        tools=ToolDraws.of(generation.tools),
    )


def attributes_of(
    generation: GenerationConfig, batch: str, languages: Sequence[str]
) -> AttributeSequence | None:
    """Return the attributes of a batch's dialogues, in all the languages in which it has some."""
    if not generation.attributes:
        return None
    key = bytes.fromhex(hex_digest([generation.run.seed, "attributes", batch], 16))
    return AttributeSequence(generation.attributes, key, languages)


def _cycle(drawn: Sequence[D], language: str) -> tuple[D, ...]:
    """Return a cycle of the templates that dialogues in a language may have."""
    fit = [one for one in drawn if not one.languages or language in one.languages]
    return tuple(fit[i] for i in block_of([one.weight for one in fit])) if fit else ()


def unknown_languages(languages: Sequence[str]) -> list[str]:
    """Return a note on each language of an unknown name."""
    return [_unknown(language) for language in languages if not is_known(language)]


def _unknown(language: str) -> str:
    near = nearest(language.casefold(), known_names())
    meant = f"; did you mean {near.title()!r}?" if near else "."
    return (
        f"run.target_languages: no language is known as {language!r}{meant} "
        "It goes into the prompts as it stands, and its texts are not checked"
    )


def select_batches(batches: Sequence[SeedBatch], names: Sequence[str] | None) -> list[SeedBatch]:
    """Return the batches of these names, or all. Raises ConfigError."""
    known = [batch.name for batch in batches]
    if twice := sorted({name for name in known if known.count(name) > 1}):
        raise ConfigError(f"seed batches share the name {', '.join(twice)}; rename their files")
    if not known:
        raise ConfigError("there is no seed batch to plan for")
    if names is None:
        return list(batches)
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"seed batch {', '.join(unknown)} is not there; there are: {', '.join(known)}")
    return [batch for batch in batches if batch.name in names]


def select_languages(run: RunConfig, languages: Sequence[str] | None) -> list[str]:
    """Return the target languages that are among these, or all. Raises ConfigError."""
    if languages is None:
        return list(run.target_languages)
    if unknown := [language for language in languages if language not in run.target_languages]:
        raise ConfigError(
            f"language {', '.join(unknown)} is not in run.target_languages; "
            f"it names: {', '.join(run.target_languages)}"
        )
    return [language for language in run.target_languages if language in languages]


def shares_of(run: RunConfig) -> dict[str, int]:
    """Return how many of a batch's dialogues there are in each target language."""
    each, rest = divmod(run.samples, len(run.target_languages))
    return {language: each + (index < rest) for index, language in enumerate(run.target_languages)}
