"""What is named in one module and filled in by another: nothing is forgotten on either side."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dlgforge_core.config import ChecksConfig, GenerationConfig
from dlgforge_core.config.agents import AgentsConfig
from dlgforge_core.config.prompts import MESSAGES, VARIABLES, PromptsConfig
from dlgforge_core.config.saving import FORMATS as NAMES
from dlgforge_core.dialogue import OPTIONAL_ROLES, Role, Turn
from dlgforge_core.export.formats import FORMATS
from dlgforge_core.quality.checks import CHECKS
from dlgforge_core.quality.collectors import COLLECTORS
from dlgforge_core.quality.findings import findings_key
from dlgforge_core.verdicts import Judgement
from tests.support.dialogues import make_dialogue


def test_every_role_has_settings_and_messages() -> None:
    roles = {role.value for role in Role}
    assert set(AgentsConfig.model_fields) == roles
    assert {role.value for role in MESSAGES} == set(PromptsConfig.model_fields) == roles
    for role, messages in MESSAGES.items():
        assert set(type(getattr(PromptsConfig(), role.value)).model_fields) == set(messages)
        assert {name for names in messages.values() for name in names} <= set(VARIABLES)


def test_a_role_takes_part_where_its_section_says_so() -> None:
    everyone = [role for role in Role if role not in OPTIONAL_ROLES]
    assert GenerationConfig().roles == everyone
    played = {"name": "find", "description": "Finds a book.", "simulated": True}
    tools = GenerationConfig.model_validate({"tools": {"enabled": True, "functions": [played]}})
    assert tools.roles == list(Role)
    offline = GenerationConfig.model_validate({"judge": {"mode": "offline"}})
    assert offline.roles == [role for role in everyone if role is not Role.JUDGE]


def test_every_format_that_may_be_named_is_there() -> None:
    assert set(FORMATS) == set(NAMES)


def test_every_collector_is_a_check() -> None:
    assert set(COLLECTORS) <= {check.name for check in CHECKS}


class _Read:
    """A configuration that knows which of its keys were read."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.names.add(name)
        return getattr(ChecksConfig(), name)


@pytest.mark.parametrize("name", COLLECTORS)
def test_a_collector_names_the_settings_that_it_finds_by(name: str) -> None:
    config = _Read()
    collector = COLLECTORS[name](cast(ChecksConfig, config), ["en"])
    verdict = Judgement(1, ("incorrect",))
    empty, cut = Turn(0, "Why does", "", verdict), Turn(1, "", "Because the wind and the rain", verdict)
    for turns in ((), (empty,), (cut,)):
        collector.add(make_dialogue(0, turns))
    read, named = config.names - {"max_examples"}, set(collector.settings)
    assert read <= named <= set(ChecksConfig.model_fields)


def test_findings_are_kept_while_their_settings_are_the_same() -> None:
    usual = findings_key(["en"], ChecksConfig())
    assert usual == findings_key(["en"], ChecksConfig(max_cut_share=0.9, max_leak_share=0.9))
    for name in {"max_examples", *(name for one in COLLECTORS.values() for name in one.settings)}:
        assert usual != findings_key(["en"], ChecksConfig(**{name: getattr(ChecksConfig(), name) + 1}))
