"""What every section of the configuration is made of, and how its problems are told."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dlgforge_core.common.hints import hint
from dlgforge_core.errors import ConfigError

M = TypeVar("M", bound="ConfigModel")


Probability = Annotated[float, Field(ge=0.0, le=1.0)]


PositiveInt = Annotated[int, Field(ge=1)]


NonNegativeInt = Annotated[int, Field(ge=0)]


Seconds = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


BareOff = BeforeValidator(lambda value: "off" if value is False else value)
"""Of a choice with `off` in it: YAML reads the bare word as false, and Dagster's launchpad writes it so."""


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY_PREFIXES = ("hf_", "gsk_", "sk_")
_KEY_CHARS = 20


def _variable_name(name: str) -> str:
    """Raise ValueError, without repeating it, when `name` is none or is the secret itself."""
    # A long run of letters and digits is no word: some services' keys are nothing but hexadecimal digits.
    runs = (run for run in name.split("_") if len(run) >= _KEY_CHARS)
    random = any(re.search(r"[a-z]", run) and re.search(r"[0-9]", run) for run in runs)
    if random or not _VARIABLE.fullmatch(name) or name.startswith(_KEY_PREFIXES):
        raise ValueError(
            "does not name an environment variable; give the variable's name, for example MY_API_KEY, "
            "never the key itself"
        )
    return name


VariableName = Annotated[str, AfterValidator(_variable_name)]


OptionalVariableName = Annotated[str, AfterValidator(lambda name: name and _variable_name(name))]


class KeyedError(ValueError):
    """What is wrong with a key, found by a model that holds it somewhere inside: `key` leads there."""

    def __init__(self, key: tuple[int | str, ...], problem: str) -> None:
        super().__init__(problem)
        self.key = key


class ConfigModel(BaseModel):
    """Base of all configuration models: unknown keys are errors, values are not coerced between types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def validate(
    model: type[M],
    data: Mapping[str, Any],
    source: str,
    location_of: Callable[[tuple[int | str, ...]], str] | None = None,
) -> M:
    """Build `model` from plain data.

    `source` names where the data came from, for the message; `location_of` tells it of one key. Raises
    ConfigError with one line for every problem: the key, the value and what would be right.
    """
    try:
        # Strict models take no list for a tuple and the like; JSON and YAML data never need that.
        return model.model_validate(data)
    except ValidationError as error:
        problems = "\n".join(f"  {line}" for line in _problems(model, error, location_of))
        # Not chained: pydantic's own message repeats every input, secrets among them.
        raise ConfigError(f"{source} cannot be used:\n{problems}") from None


def _problems(
    model: type[BaseModel], error: ValidationError, location_of: Callable[[tuple[int | str, ...]], str] | None
) -> Iterator[str]:
    for item in error.errors(include_url=False):
        loc = item["loc"]
        if isinstance(keyed := item.get("ctx", {}).get("error"), KeyedError):
            loc = (*loc, *keyed.key)
        key = ".".join(str(part) for part in loc)
        path = f"{location_of(loc)}: {key or model.__name__}" if location_of is not None else key
        value = item.get("input")
        if item["type"] == "extra_forbidden":
            known = _fields_at(model, item["loc"][:-1])
            yield f"{path}: unknown key; {hint(str(item['loc'][-1]), known)}"
        elif item["type"] == "missing":
            yield f"{path}: missing; it must be set"
        elif item["type"] == "value_error":
            yield f"{path or model.__name__}: {item['ctx']['error']}"
        elif item["type"] == "model_type":
            known = _fields_at(model, item["loc"])
            name = path or model.__name__
            yield f"{name} is {_kind(value)}; it must be a section with keys: {', '.join(known)}"
        elif _is_secret(key):
            yield f"{path}: {_lower_first(item['msg'])}"
        elif not _may_be_shown(value):
            yield f"{path} is {_kind(value)}: {_lower_first(item['msg'])}"
        else:
            yield f"{path} = {value!r}: {_lower_first(item['msg'])}"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


# As words of a key: `max_tokens` is no secret.
_SECRET_WORDS = frozenset({"dsn", "key", "token", "password", "secret"})


def _is_secret(path: str) -> bool:
    return not _SECRET_WORDS.isdisjoint(re.split(r"[._]", path.lower()))


def _may_be_shown(value: Any) -> bool:
    # What holds keys of its own may hold a secret, and so may an address.
    return not isinstance(value, Mapping | list | tuple) and "@" not in str(value)


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return {str: "text", bool: "true or false", int: "a number", float: "a number"}.get(type(value), "unfit")


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Return the known keys of the model that `loc` leads to."""
    current: Any = model
    named = False
    for part in loc:
        if isinstance(part, int) or named:  # an item of a list or a mapping
            named = False
            continue
        field = current.model_fields.get(part)
        current = next(iter(_models_in(field.annotation)), None) if field else None
        if field is None or current is None:
            return []
        named = typing.get_origin(field.annotation) is dict
    return list(current.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (list, dict, tuple, Annotated, typing.Union, types.UnionType):
        for inner in typing.get_args(annotation):
            yield from _models_in(inner)
