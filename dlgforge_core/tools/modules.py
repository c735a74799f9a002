"""Python functions that are tools: of a recipe's own modules, or of installed ones."""

from __future__ import annotations

import functools
import hashlib
import importlib
import linecache
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from dlgforge_core.errors import ConfigError


def load_function(path: str, modules: Mapping[str, str]) -> Callable[..., Any]:
    """Return the function that `package.module:function` names; `modules` are sources by name.

    Raises ConfigError, which says what is missing.
    """
    module_name, _, name = path.partition(":")
    try:
        if module_name in modules:
            module = _module_of(module_name, modules[module_name])
        else:
            module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module does while it is imported
        raise ConfigError(
            f"tools: the module of {path!r} cannot be imported: {type(error).__name__}: {error}; name one in "
            "tools.modules, or one that is installed wherever workers run"
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"tools: {path!r}: the module {module_name!r} has no function {name!r}")
    found: Callable[..., Any] = function
    return found


@functools.lru_cache(maxsize=64)
def _module_of(name: str, source: str) -> types.ModuleType:
    """Return a module made from its source; once made it stays, as imported modules do."""
    digest = hashlib.blake2b(source.encode(), digest_size=8).hexdigest()
    module = types.ModuleType(f"dlgforge_tools_{name}_{digest}")
    file = f"<tools.modules.{name}>"
    # So that tracebacks show its lines.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    sys.modules[module.__name__] = module  # where dataclasses look for their module
    try:
        exec(compile(source, file, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module
