"""Dagster config classes made from the core's models, so that keys, defaults and texts are written once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import dagster as dg
from pydantic import BaseModel, Field, SecretStr, create_model
from pydantic.fields import FieldInfo


def config_class(model: type[BaseModel] | BaseModel, base: Any = dg.Config) -> type[Any]:
    """Return a Dagster config (or, with `base`, resource) class with the fields of a core model.

    The defaults are the model's, or where an instance of it is given, its values. Dagster checks the shape
    in the launchpad; bounds and contradictions are the core's to check, from `plain`. Nested models become
    nested config classes.
    """
    return _class_of(model, base) if isinstance(model, type) else _class_with_values(model, base)


@cache
def _class_of(model: type[BaseModel], base: Any) -> type[Any]:
    fields: dict[str, Any] = {
        name: (_annotation(field.annotation), _default(field)) for name, field in model.model_fields.items()
    }
    made: type[Any] = create_model(
        model.__name__, __base__=base, __module__=__name__, __doc__=model.__doc__, **fields
    )
    return made


def _class_with_values(values: BaseModel, base: Any) -> type[Any]:
    model = type(values)
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        value = getattr(values, name)
        if isinstance(value, BaseModel):
            # A class of its own: Dagster shows the defaults of the class, not those of the instance.
            inner = _class_with_values(value, dg.Config)
            fields[name] = (inner, Field(default=inner(), description=field.description))
        else:
            fields[name] = (
                _annotation(field.annotation),
                Field(default=_plain(value), description=field.description),
            )
    made: type[Any] = create_model(
        model.__name__, __base__=base, __module__=__name__, __doc__=model.__doc__, **fields
    )
    return made


def plain(config: BaseModel, model: type[BaseModel]) -> dict[str, Any]:
    """Return the values of a class made by `config_class`, as plain data for the core's model to check."""
    return {name: _plain(getattr(config, name)) for name in model.model_fields}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _default(field: FieldInfo) -> Any:
    kwargs: dict[str, Any] = {"description": field.description}
    if field.is_required():
        return Field(**kwargs)
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        cls = config_class(type(default))
        # What is the class' own default is left to it: given again, Dagster does not know it as such.
        values = {
            name: value
            for name, value in plain(default, type(default)).items()
            if name in default.model_fields_set
        }
        return Field(default=cls(**values), **kwargs)
    if isinstance(default, SecretStr):
        return Field(default=default.get_secret_value(), **kwargs)
    if isinstance(default, list):  # in one Dagster takes plain data alone
        return Field(default=_plain(default), **kwargs)
    return Field(default=default, **kwargs)


def _annotation(annotation: Any) -> Any:
    if annotation is SecretStr:
        return str
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return config_class(annotation)
    if get_origin(annotation) is list:
        return list[_annotation(get_args(annotation)[0])]  # type: ignore[misc]
    if get_origin(annotation) is dict:
        # Any JSON: Dagster takes no null in a dict[str, Any].
        values = _annotation(get_args(annotation)[1])
        return dict if values is Any else dict[str, values]  # type: ignore[valid-type]
    if get_origin(annotation) is Annotated:  # the core checks, without repeating what may be a secret
        return _annotation(get_args(annotation)[0])
    if get_origin(annotation) is Literal and "off" in get_args(annotation):
        # The launchpad writes the word bare, and Dagster reads that as false: the core knows what is meant.
        return Any
    if get_origin(annotation) in (Union, UnionType):
        choices = [one for one in get_args(annotation) if one is not NoneType]
        if all(get_origin(one) is Literal for one in choices):  # Dagster has no enum that may be left out
            return str | None
    return annotation
