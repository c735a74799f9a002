"""What of a dataset the formats of its files depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlgforge_core.config.saving import Reasoning, ToolArguments
from dlgforge_core.export.columns import NO_OPTIONAL_COLUMNS, OptionalColumns

Record = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatContext:
    """What the rows of a format are made with, and what is said of them.

    `tools`: the assistant had some, by `definitions` those called by name, by `offered` those it could call;
    with `arguments` as text or as objects in OpenAI messages; `reasoning`: where that of the assistant goes;
    `passages`: their texts stand before the questions; `renamed`: new names of columns; `roles`: those whose
    models are named; `siblings`: there are files of other formats, too; `sharded`: splits have several
    files; `opened`: the assistant opened some
    dialogues; `optional`: the columns that not every dataset has; `min_margin`: the least difference in
    score of two answers that are a pair.
    """

    reasoning: Reasoning = "none"
    tools: bool = False
    passages: bool = False
    siblings: bool = False
    sharded: bool = False
    optional: OptionalColumns = NO_OPTIONAL_COLUMNS
    opened: bool = False
    definitions: Mapping[str, Record] = field(default_factory=dict)
    offered: Sequence[str] = ()
    arguments: ToolArguments = "text"
    renamed: Mapping[str, str] = field(default_factory=dict)
    roles: Sequence[str] = ()
    min_margin: float = 1.0


NO_CONTEXT = FormatContext()
