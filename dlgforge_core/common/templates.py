"""Templates of texts: a small part of Jinja2, in its sandbox, with known variables.

There are values, conditions, loops over lists that do not nest, and filters whose result is about as long as
what they are given. Without calls, assignments, macros and arithmetic nothing can grow without bound, and
nothing behind a value can be reached; how often a text may be gone through is bounded. What a template holds
is checked when it is read, with the line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dlgforge_core.common.hints import nearest

MAX_SOURCE_CHARS = 20_000
MAX_RENDERED_CHARS = 4_000_000
_MAX_JOINED = 10
"""How many values one expression may join: their text is whole before its length is looked at."""
_MAX_FILTERS, _IN_LOOP = 200, 30
"""How many filters there may be, and for how many one counts that a loop applies to one text again."""
_MAX_DEPTH = 100
"""Of parts within parts: some thirty conditions in each other."""
_FILTERS = ("capitalize", "default", "dictsort", "items", "lower", "title", "trim", "upper")
_MAPPING_FILTERS = ("dictsort", "items")
_TESTS = ("defined", "undefined")
_OPERATORS = ("eq", "ne", "in", "notin")
_OF_LOOP = ("index", "index0", "first", "last", "length", "revindex", "revindex0")
_ALLOWED = (
    *(nodes.Output, nodes.TemplateData, nodes.Const, nodes.Name, nodes.If, nodes.CondExpr, nodes.For),
    *(nodes.And, nodes.Or, nodes.Not, nodes.Compare, nodes.Operand, nodes.List, nodes.Tuple, nodes.Concat),
    *(nodes.Getattr, nodes.Getitem, nodes.Filter, nodes.Test, nodes.Keyword),
)
_WHAT_IS_THERE = f"there are values ({{{{ x }}}}), if, for, ==, !=, in and the filters {', '.join(_FILTERS)}"


class BadTemplateError(ValueError):
    """A template that cannot be used: what is wrong, and the line in it, from 1."""

    def __init__(self, problem: str, line: int = 1) -> None:
        super().__init__(problem, line)
        self.problem, self.line = problem, line

    def __str__(self) -> str:
        return f"line {self.line} of the template: {self.problem}"


class AnyItem(Mapping[str, str]):
    """A sample of a mapping whose names are not known: whatever is taken from it is there."""

    def __init__(self, value: str = "value") -> None:
        self._value = value

    def __getitem__(self, name: str) -> str:
        return self._value

    def __iter__(self) -> Iterator[str]:
        return iter(("name",))

    def __len__(self) -> int:
        return 1


class _Environment(ImmutableSandboxedEnvironment):
    def getattr(self, obj: Any, attribute: str) -> Any:
        """Of a mapping the item: one that is called `items` is no method."""
        if isinstance(obj, Mapping):
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)


# Nothing but the variables: no functions, which only cost time in each render.
_ENVIRONMENT = _Environment(undefined=StrictUndefined)
_ENVIRONMENT.globals.clear()


@dataclass(frozen=True, slots=True)
class TextTemplate:
    """A template that was read, checked and compiled."""

    tree: nodes.Template
    compiled: Template
    used: frozenset[str]
    """The variables that it uses."""

    @classmethod
    def read(cls, source: str, variables: Mapping[str, Any], *, required: Sequence[str] = ()) -> TextTemplate:
        """Compile `source`, which may use `variables` only, and must use those that are `required`.

        `variables` have samples of their values: a text, true or false, a mapping, or a list of mappings,
        whose names are those of the sample's first. Raises BadTemplateError.
        """
        if len(source) > MAX_SOURCE_CHARS:
            problem = f"it has {len(source):,} characters; a template may have {MAX_SOURCE_CHARS:,} at most"
            raise BadTemplateError(problem)
        try:
            tree = _ENVIRONMENT.parse(source)
            _Checker(variables).check(tree)  # before Jinja2 works out what is constant
            used = _variables_of(tree)
            _check_variables(tree, used, variables, required)
            template = cls(tree, _ENVIRONMENT.from_string(source), frozenset(used))
            template._try(variables)
        except TemplateSyntaxError as error:
            raise BadTemplateError(_lower_first(str(error.message).rstrip(".")), error.lineno) from None
        except (RecursionError, MemoryError, SyntaxError):
            raise BadTemplateError("it is nested too deeply") from None
        return template

    def _try(self, samples: Mapping[str, Any]) -> None:
        """Raise BadTemplateError when it cannot be rendered, with everything and with nothing there."""
        nothing = {name: AnyItem("") if isinstance(x, AnyItem) else type(x)() for name, x in samples.items()}
        for values in (samples, nothing):
            try:
                self.render(**values)
            except (TemplateError, TypeError, ValueError) as error:
                raise BadTemplateError(f"it cannot be filled in: {error}") from None

    def render(self, **values: Any) -> str:
        """Return the text. Every variable needs a value. Raises ValueError when the text is too long."""
        # As `compiled.render(values)`, but for copies of values and globals, and a tenth of the time.
        context = Context(_ENVIRONMENT, values, None, {})
        parts, size = list[str](), 0
        for part in self.compiled.root_render_func(context):
            size += len(part)
            if size > MAX_RENDERED_CHARS:
                raise ValueError(f"a template makes a text of more than {MAX_RENDERED_CHARS:,} characters")
            parts.append(part)
        return "".join(parts)

    def parts_of(self, variable: str) -> dict[str, int]:
        """Return the names that it takes from a mapping, each with the first line where it does."""
        found: dict[str, int] = {}
        for node in self.tree.find_all((nodes.Getattr, nodes.Getitem)):
            assert isinstance(node, nodes.Getattr | nodes.Getitem)
            if isinstance(node.node, nodes.Name) and node.node.name == variable:
                found.setdefault(_part_name(node), node.lineno)
        return found


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _variables_of(tree: nodes.Template) -> set[str]:
    """Return the variables of a template; `self`, which is one of Jinja2's own, counts as one."""
    names = {name.name for name in tree.find_all(nodes.Name)}
    return meta.find_undeclared_variables(tree) | (names & {"self"})


def _check_variables(
    tree: nodes.Template, used: set[str], variables: Mapping[str, Any], required: Sequence[str]
) -> None:
    known = ", ".join(variables) or "none"
    for name in tree.find_all(nodes.Name):
        if name.name in used and name.name not in variables:
            near = nearest(name.name, variables)
            meant = f"did you mean {near!r}? All that it may use" if near else "it may use"
            raise BadTemplateError(f"there is no variable {name.name!r}; {meant}: {known}", name.lineno)
    for needed in required:
        if needed not in used:
            raise BadTemplateError(f"it must use {{{{ {needed} }}}} somewhere, which is lost otherwise")


class _Checker:
    """Raises BadTemplateError for what is outside of the small part of Jinja2."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._mappings = [name for name, sample in variables.items() if isinstance(sample, Mapping)]
        self._lists = {name: list(x[0]) for name, x in variables.items() if isinstance(x, list)}

    def check(self, tree: nodes.Template) -> None:
        targets = {
            loop.target.name: self._lists[loop.iter.name]
            for loop in tree.find_all(nodes.For)
            if isinstance(loop.target, nodes.Name)
            and isinstance(loop.iter, nodes.Name)
            and loop.iter.name in self._lists
        }
        parts: dict[str, Sequence[str] | None] = {"loop": _OF_LOOP, **targets}
        parts |= dict.fromkeys(self._mappings)  # whatever they have
        _check_depth(tree)
        _check_filters(tree)
        for node in tree.find_all(nodes.Node):
            if not isinstance(node, _ALLOWED):
                what = "a call" if isinstance(node, nodes.Call) else f"{type(node).__name__.lower()!r}"
                raise BadTemplateError(f"{what} cannot be used; {_WHAT_IS_THERE}", node.lineno)
            match node:
                case nodes.Filter():
                    self._check_filter(node)
                case nodes.Test() if node.name not in _TESTS:
                    raise _no_such("test", node.name, _TESTS, node.lineno)
                case nodes.Operand() if node.op not in _OPERATORS:
                    raise BadTemplateError(f"{node.op!r} cannot be used; {_WHAT_IS_THERE}", node.lineno)
                case nodes.For() if node.recursive or any(True for _ in node.find_all(nodes.For)):
                    raise BadTemplateError("a loop in a loop cannot be used", node.lineno)
                case nodes.For() if not self._is_list(node.iter):
                    raise BadTemplateError(
                        "a loop goes through a list, or the items of a mapping, and not through a text",
                        node.lineno,
                    )
                case nodes.Getattr() | nodes.Getitem():
                    _check_part(node, parts)
                case nodes.Concat() | nodes.List() | nodes.Tuple():
                    _check_joined(node)

    def _is_list(self, node: nodes.Node) -> bool:
        while isinstance(node, nodes.Filter) and node.node is not None:
            node = node.node
        if isinstance(node, nodes.Name):
            return node.name in self._lists or node.name in self._mappings
        return isinstance(node, nodes.List | nodes.Tuple)

    def _check_filter(self, node: nodes.Filter) -> None:
        if node.name not in _FILTERS:
            raise _no_such("filter", node.name, _FILTERS, node.lineno)
        on_mapping = isinstance(node.node, nodes.Name) and node.node.name in self._mappings
        if node.name in _MAPPING_FILTERS and not on_mapping:
            names = ", ".join(self._mappings) or "nothing here"
            raise BadTemplateError(f"the filter {node.name!r} is for {names}", node.lineno)


def _check_depth(tree: nodes.Template) -> None:
    """Raise BadTemplateError before what compiles a template takes long for it."""
    waiting: list[tuple[nodes.Node, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise BadTemplateError("it is nested too deeply", node.lineno)
        waiting.extend((child, depth + 1) for child in node.iter_child_nodes())


def _check_filters(tree: nodes.Template) -> None:
    """Raise BadTemplateError for so many filters that long texts would take long."""
    count = sum(1 for _ in tree.find_all(nodes.Filter))
    for loop in tree.find_all(nodes.For):
        own = {name.name for name in loop.target.find_all(nodes.Name)} | {"loop"}
        if isinstance(loop.target, nodes.Name):
            own.add(loop.target.name)
        for part in (*loop.body, *loop.else_):
            for found in part.find_all(nodes.Filter):
                used = {name.name for name in found.find_all(nodes.Name)}
                count += 0 if used <= own else _IN_LOOP - 1
    if count > _MAX_FILTERS:
        raise BadTemplateError(
            f"it has more than {_MAX_FILTERS} filters, of which one in a loop for what is none of the loop's "
            f"counts as {_IN_LOOP}; use fewer"
        )


def _check_joined(node: nodes.Concat | nodes.List | nodes.Tuple) -> None:
    items = node.nodes if isinstance(node, nodes.Concat) else node.items
    if any(True for _ in node.find_all((nodes.Concat, nodes.List, nodes.Tuple))):
        raise BadTemplateError("lists and ~ cannot be within each other", node.lineno)
    if sum(not isinstance(item, nodes.Const) for item in items) > _MAX_JOINED:
        raise BadTemplateError(
            f"one expression joins more than {_MAX_JOINED} values; write them one after another", node.lineno
        )


def _check_part(node: nodes.Getattr | nodes.Getitem, parts: Mapping[str, Sequence[str] | None]) -> None:
    if not isinstance(node.node, nodes.Name) or node.node.name not in parts:
        name = repr(node.node.name) if isinstance(node.node, nodes.Name) else "this"
        raise BadTemplateError(f"{name} has no parts; use it as a whole", node.lineno)
    part, known = _part_name(node), parts[node.node.name]
    if not part or part.startswith("_"):
        raise BadTemplateError(
            f"{node.node.name} has parts with names, as in x.name or x['a name']", node.lineno
        )
    if known is not None and part not in known:
        raise _no_such(f"part of {node.node.name}", part, known, node.lineno)


def _part_name(node: nodes.Getattr | nodes.Getitem) -> str:
    if isinstance(node, nodes.Getattr):
        return node.attr
    return node.arg.value if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str) else ""


def _no_such(what: str, name: str, known: Sequence[str], line: int) -> BadTemplateError:
    near = nearest(name, known)
    meant = f"did you mean {near!r}?" if near else f"there are: {', '.join(known)}"
    return BadTemplateError(f"there is no {what} {name!r}; {meant}", line)
