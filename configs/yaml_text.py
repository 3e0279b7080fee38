"""YAML as data: no objects, and no more of it than the file seems to hold."""

from typing import Any

import yaml

MAX_NODES = 100_000
"""Of a document with its aliases written out."""


def parse_yaml(text: str) -> Any:
    """What `yaml.safe_load` gives. Raises yaml.YAMLError, also for aliases that grow beyond MAX_NODES, that contain
    themselves, and for nesting that is too deep."""
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        if _size(root, {}) > MAX_NODES:
            raise yaml.YAMLError(f"holds more than {MAX_NODES} values once its aliases are written out")
        return loader.construct_document(root)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply, or an alias that contains itself") from error
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    if id(node) not in known:
        inside = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_size(part, known) for part in inside if isinstance(part, yaml.Node))
    return known[id(node)]
