"""Templates of prompts: one a message, in Jinja2's sandbox.

They lie in `templates/<role>/<message>.jinja`. Values are never read as templates: what comes from documents,
topics, personas and models is text to them, and reaches them neutralised, quoted or in one line, so that no
template can forget it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dlgforge_core.dialogue import Role
from dlgforge_core.errors import ConfigError

MESSAGES: Mapping[Role, Mapping[str, tuple[str, ...]]] = {
    Role.USER_SIMULATOR: {
        "system": ("topic", "persona", "language", "kinds", "instructions"),
        "example": ("topic", "kinds"),
        "question": ("answer", "evidence", "topic", "kind", "example", "follows"),
        "asked_before": (),
        "names_material": (),
    },
    Role.ASSISTANT: {
        "system": ("persona", "language", "grounded", "instructions"),
        "question": ("passages", "question"),
    },
    Role.JUDGE: {
        "system": ("topic", "language", "whole", "reasons", "max_score", "evidence", "instructions"),
        "exchanges": ("evidence", "exchanges"),
    },
}
"""The messages of each role's prompt that have a template, and the variables of each.

A variable that does not apply is empty or false. `topic` is empty where the dialogue is led off it by its
document, `kinds` and `kind` say what sort of question is wanted, `example` that an example was asked for
before, `follows` that this is not the first question, `whole` that a judge looks at the whole conversation.
"""

# Nothing but the variables: no functions, which only cost time in each render.
_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
_ENVIRONMENT.globals.clear()


@dataclass(frozen=True, slots=True)
class MessageTemplate:
    """The compiled template of a message."""

    variables: tuple[str, ...]
    conditions: frozenset[str]
    """The variables that decide which parts apply."""
    compiled: Template

    @classmethod
    def read(cls, source: str, variables: tuple[str, ...], origin: str) -> MessageTemplate:
        """Compile `source`, which may use `variables` only.

        `origin` says where it comes from. Raises ConfigError when it is no template or uses another variable.
        """
        try:
            tree = _ENVIRONMENT.parse(source)
            unknown = meta.find_undeclared_variables(tree) - set(variables)
            compiled = _ENVIRONMENT.from_string(source)
        except TemplateSyntaxError as error:
            raise ConfigError(f"{origin}, line {error.lineno}: {error.message}") from error
        if unknown:
            known = ", ".join(variables) or "none"
            raise ConfigError(
                f"{origin}: there is no variable {', '.join(sorted(unknown))}; this message has: {known}"
            )
        tests = [branch.test for branch in tree.find_all(nodes.If)]
        tests += [branch.test for branch in tree.find_all(nodes.CondExpr)]
        names = [test for test in tests if isinstance(test, nodes.Name)]
        names += [name for test in tests for name in test.find_all(nodes.Name)]
        return cls(variables, frozenset(name.name for name in names), compiled)

    def render(self, **values: Any) -> str:
        """Return the message. Every variable needs a value."""
        # As `compiled.render(values)`, but for a copy of the values and a third of the time.
        context = self.compiled.new_context(values, shared=True)
        return "".join(self.compiled.root_render_func(context))


@dataclass(frozen=True, slots=True)
class Templates:
    """The templates of every role's messages."""

    by_message: Mapping[tuple[Role, str], MessageTemplate]

    @classmethod
    def shipped(cls) -> Templates:
        """Those that come with the package."""
        folder = resources.files(__package__).joinpath("templates")
        return cls(
            {
                (role, message): MessageTemplate.read(
                    folder.joinpath(role.value, f"{message}.jinja").read_text("utf-8"),
                    variables,
                    f"{role.value}/{message}.jinja",
                )
                for role, messages in MESSAGES.items()
                for message, variables in messages.items()
            }
        )

    def render(self, role: Role, message: str, **values: Any) -> str:
        """Return a message of a role's prompt."""
        return self.by_message[role, message].render(**values)


SHIPPED = Templates.shipped()
