"""What a judge is shown: the dialogue, and the material behind its answers.

Without the material, nobody can tell what is unsupported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dlgforge_core.config import JudgeConfig
from dlgforge_core.dialogue import DialoguePlan, Role, Turn, TurnDetails
from dlgforge_core.llm.tool_calls import Message
from dlgforge_core.prompting import verdict_prompts as prompts
from dlgforge_core.prompting.goal_verdicts import with_goal
from dlgforge_core.prompting.quoting import quote_passages
from dlgforge_core.prompting.templates import SHIPPED, Templates
from dlgforge_core.prompting.tool_definitions import WEB_SEARCH


def verdict_messages(
    judge: JudgeConfig,
    plan: DialoguePlan,
    turns: Sequence[Turn],
    evidence: str,
    *,
    whole: bool,
    instructions: str = "",
    templates: Templates = SHIPPED,
    goal: bool = False,
) -> list[Message]:
    """Return the prompt for a verdict on the `whole` of these turns, or on the last of them.

    With `goal` it is to say as well whether the user's goal was met.

    `evidence` is the material behind what is judged; see `evidence_shown`.
    """
    if whole:
        messages = prompts.conversation_judge(
            plan, judge, turns, evidence=evidence, instructions=instructions, templates=templates
        )
    else:
        messages = prompts.turn_judge(
            *(plan, judge, turns[:-1], turns[-1]),
            evidence=evidence,
            instructions=instructions,
            templates=templates,
        )
    return with_goal(messages, plan, templates) if goal else messages


def chunks_shown(judge: JudgeConfig, turns: Sequence[TurnDetails]) -> list[str]:
    """Ids of the chunks behind the turns that one verdict is about, each once, in the order they were given.

    For a turn all that the assistant was given; for a conversation, whose prompt would grow with its length,
    what the questions came from and the answers draw on.
    """
    if not judge.show_evidence:
        return []
    whole = judge.granularity == "conversation"
    given = (evidence for details in turns for evidence in details.evidence)
    return list(
        dict.fromkeys(
            evidence.chunk_id
            for evidence in given
            if (whole and evidence.given_to is Role.USER_SIMULATOR)
            or (evidence.given_to is Role.ASSISTANT and (evidence.cited or not whole))
        )
    )


def evidence_shown(judge: JudgeConfig, turns: Sequence[TurnDetails], texts: Mapping[str, str]) -> str:
    """Return the material as a quoted block, empty without any: passages, and what a search of the web gave.

    `texts` are those of the chunks by id. A chunk that is not there any more is left out.
    """
    if not judge.show_evidence:
        return ""
    passages = quote_passages([texts[chunk] for chunk in chunks_shown(judge, turns) if chunk in texts])
    found = [
        event.result
        for details in turns
        for event in details.tools
        if event.name == WEB_SEARCH.name and event.result
    ]
    return "\n".join(filter(None, (passages, *found)))
