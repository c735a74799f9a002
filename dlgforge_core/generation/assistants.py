"""Several answers to a question: who gives each of them, and how the judge is shown them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from dlgforge_core.config import AgentConfig, AnswersConfig
from dlgforge_core.conversation.outcomes import AnswerSource
from dlgforge_core.conversation.steps import Answer, Compare


@dataclass(frozen=True, slots=True)
class Assistants:
    """The settings and the model of each candidate; `several` says whether there may be more than one."""

    by_candidate: Sequence[tuple[AgentConfig, str]]
    several: bool = False

    @classmethod
    def of(cls, answers: AnswersConfig, agent: AgentConfig, model: str) -> Assistants:
        """Those of a configuration, where the assistant has these settings and this model."""
        agents = [agent.model_copy(update={"temperature": one}) for one in answers.temperatures]
        agents = agents or [agent] * answers.candidates
        models = answers.models or [model] * answers.candidates
        return cls(list(zip(agents, models, strict=True)), answers.several)

    def of_step(self, step: Answer) -> tuple[AgentConfig, str]:
        """Return who is to answer; a revision is written by whoever wrote the answer."""
        number = step.candidate if step.review is None else step.review.answered.candidate
        return self.by_candidate[number]

    def source(self, step: Answer) -> AnswerSource | None:
        """Return what an answer comes from; None where there is only ever one."""
        if not self.several:
            return None
        agent, model = self.of_step(step)
        return AnswerSource(model, agent.temperature, step.review is not None)


def compared_order(step: Compare, seed: int, dialogue_id: str) -> list[int]:
    """Return the candidates in the order in which the judge is shown them.

    It is another one in every turn, since judges favour places in a list, and the same in every run.
    """

    def key(candidate: int) -> bytes:
        return hashlib.blake2b(f"{seed}:{dialogue_id}:{step.turn}:{candidate}".encode()).digest()

    return sorted(step.candidates, key=key)


def with_room_for(judge: AgentConfig, verdicts: int) -> AgentConfig:
    """Return the judge's settings with room for so many verdicts in one answer."""
    if judge.max_tokens is None or verdicts == 1:
        return judge
    return judge.model_copy(update={"max_tokens": judge.max_tokens * verdicts})
