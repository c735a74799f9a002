"""YAML with anchors and aliases: read only as far as what they stand for has a bounded size."""

from __future__ import annotations

from typing import Any

import yaml

from dlgforge_core.errors import ConfigError

MAX_FILE_BYTES = 16 * 2**20
"""Of a file of configuration."""
# Of the parts that a file has once its aliases are written out; a long text counts as several.
MAX_PARTS = 100_000
_CHARS_OF_PART = 100


def load_yaml(text: str, label: str) -> tuple[yaml.Node | None, Any]:
    """Return the one document in `text`, as nodes that know their lines and as plain data.

    Raises yaml.YAMLError, RecursionError where it is nested too deeply, and ConfigError for a key that is
    there twice and for aliases that stand for very much, or for what they stand in.
    """
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None, None
        # Before the data is made: that puts the pairs a merge key (<<) brings into the nodes.
        _Checker(label).parts_of(root)
        return root, loader.construct_document(root)
    finally:
        loader.dispose()


class _Checker:
    def __init__(self, label: str) -> None:
        self._label = label
        self._parts: dict[int, int | None] = {}  # by node; None while it is being counted

    def parts_of(self, node: yaml.Node) -> int:
        """How many parts a node has, its aliases written out. Raises ConfigError."""
        line = node.start_mark.line + 1
        if id(node) in self._parts:
            known = self._parts[id(node)]
            if known is None:
                raise ConfigError(f"{self._label}:{line}: an alias (*) stands in what it stands for")
            return known
        self._parts[id(node)] = None
        if isinstance(node, yaml.ScalarNode):
            n_parts = 1 + len(node.value) // _CHARS_OF_PART
        elif isinstance(node, yaml.MappingNode):
            self._no_key_twice(node)
            n_parts = 1 + sum(self.parts_of(key) + self.parts_of(value) for key, value in node.value)
        else:
            n_parts = 1 + sum(self.parts_of(item) for item in node.value)
        if n_parts > MAX_PARTS:
            raise ConfigError(
                f"{self._label}:{line}: with its aliases (*) written out it has more than {MAX_PARTS:,} parts"
            )
        self._parts[id(node)] = n_parts
        return n_parts

    def _no_key_twice(self, node: yaml.MappingNode) -> None:
        """YAML lets the last of two equal keys win, silently."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise ConfigError(f"{self._label}:{line}: {key.value} is there twice; keep one")
                seen.add(key.value)
