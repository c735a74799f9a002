"""What is named in one module and filled in by another: nothing is forgotten on either side."""

from __future__ import annotations

from dlgforge_core.config import GenerationConfig
from dlgforge_core.config.agents import AgentsConfig
from dlgforge_core.config.prompts import MESSAGES, VARIABLES, PromptsConfig
from dlgforge_core.config.saving import FORMATS as NAMES
from dlgforge_core.dialogue import Role
from dlgforge_core.export.formats import FORMATS
from dlgforge_core.quality.checks import CHECKS
from dlgforge_core.quality.findings import COLLECTORS


def test_every_role_has_settings_and_messages() -> None:
    roles = {role.value for role in Role}
    assert set(AgentsConfig.model_fields) == roles
    assert {role.value for role in MESSAGES} == set(PromptsConfig.model_fields) == roles
    for role, messages in MESSAGES.items():
        assert set(type(getattr(PromptsConfig(), role.value)).model_fields) == set(messages)
        assert {name for names in messages.values() for name in names} <= set(VARIABLES)


def test_a_role_takes_part_where_its_section_says_so() -> None:
    everyone = list(Role)
    assert GenerationConfig().roles == everyone
    offline = GenerationConfig.model_validate({"judge": {"mode": "offline"}})
    assert offline.roles == [role for role in everyone if role is not Role.JUDGE]


def test_every_format_that_may_be_named_is_there() -> None:
    assert set(FORMATS) == set(NAMES)


def test_every_collector_is_a_check() -> None:
    assert set(COLLECTORS) <= {check.name for check in CHECKS}
