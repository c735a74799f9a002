"""Templates of prompts, one a message: those that are shipped, and a configuration's own in their places.

The shipped ones lie in `templates/<role>/<message>.jinja`. Values are never read as templates: what comes
from documents, topics, personas and models is text to them, and reaches them neutralised, quoted or in one
line, so that no template can forget it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import TemplateError

from dlgforge_core.common.templates import TextTemplate
from dlgforge_core.config.prompts import MESSAGES, PromptsConfig, read_message
from dlgforge_core.dialogue import Role
from dlgforge_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Templates:
    """The templates of every role's messages."""

    by_message: Mapping[tuple[Role, str], TextTemplate]

    @classmethod
    def shipped(cls) -> Templates:
        """Those that come with the package."""
        folder = resources.files(__package__).joinpath("templates")
        return cls(
            {
                (role, message): read_message(
                    role, message, folder.joinpath(role.value, f"{message}.jinja").read_text("utf-8")
                )
                for role, messages in MESSAGES.items()
                for message in messages
            }
        )

    @classmethod
    def of(cls, prompts: PromptsConfig) -> Templates:
        """Return those in use with a configuration: its own, and the shipped ones otherwise."""
        own = {
            (role, message): read_message(role, message, text)
            for role in MESSAGES
            for message, text in prompts.of(role).items()
        }
        return cls({**SHIPPED.by_message, **own}) if own else SHIPPED

    def render(self, role: Role, message: str, **values: Any) -> str:
        """Return a message of a role's prompt. Raises ConfigError when it cannot be filled in."""
        try:
            return self.by_message[role, message].render(**values)
        except (ValueError, TemplateError) as error:
            raise ConfigError(f"prompts.{role.value}.{message}: {error}") from None


SHIPPED = Templates.shipped()
