"""A config as JSON and back.

A dataclass is an object with the key `class`, which as a Python keyword is never the name of a field; a tuple
is an array; a dict is an object, inside `{"class": "dict", "items": ...}` if it has such a key itself.
"""

import dataclasses
import importlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.config.checking import build
from mmjax.config.tree import ConfigError, children, class_name, is_dataclass, join, nodes


def to_json(cfg: Any) -> str:
    """`cfg` as JSON from which `from_json` builds an equal config, with no need of the config file.

    Raises:
        ConfigError: `cfg` holds something that is not data, or a class that cannot be imported by its name.
    """
    return json.dumps(_encoded(cfg, ""), indent=2)


def from_json(text: str, packages: Sequence[str] = ("mmjax",)) -> Any:
    """The config that `to_json` wrote.

    Args:
        text: JSON, possibly a stranger's: it imports nothing outside `packages` and calls only dataclasses.
        packages: top-level packages whose dataclasses may be built.

    Raises:
        ConfigError: damaged JSON, a class not there or not of `packages`, an unknown field, an unfit value.
    """
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"config.json is damaged: {error}; restore it from a copy of its workdir"
        ) from error
    if not isinstance(tree, dict) or "class" not in tree:
        raise ConfigError("config.json names no class; restore it from a copy of its workdir")
    return _decoded(tree, packages, "")


def packages(cfg: Any) -> tuple[str, ...]:
    """The top-level packages whose classes `cfg` uses, and mmjax: whoever runs `cfg` trusts these."""
    classes = [type(node) for _, node in nodes(cfg) if is_dataclass(node)]
    return tuple(sorted({"mmjax"} | {cls.__module__.partition(".")[0] for cls in classes}))


def _encoded(node: Any, path: str) -> Any:
    if is_dataclass(node):
        cls = type(node)
        if "." in cls.__qualname__:
            raise ConfigError(f"{path or 'config'}: move {cls.__qualname__} to the top level of its module")
        return {"class": class_name(cls)} | {k: _encoded(v, join(path, k)) for k, v in children(node).items()}
    if isinstance(node, Mapping) and all(isinstance(key, str) for key in node):
        items = {key: _encoded(value, join(path, key)) for key, value in node.items()}
        return {"class": "dict", "items": items} if "class" in items else items
    if isinstance(node, tuple):
        return [_encoded(child, join(path, step)) for step, child in children(node).items()]
    if node is None or isinstance(node, (int, str)) or isinstance(node, float) and math.isfinite(node):
        return node
    wanted = "None, bool, int, finite float, str, tuple, dict by string or dataclass"
    raise ConfigError(f"{path}: wanted data ({wanted}), got {node!r}")


def _decoded(node: Any, packages: Sequence[str], path: str) -> Any:
    if isinstance(node, list):
        return tuple(_decoded(child, packages, join(path, str(index))) for index, child in enumerate(node))
    if not isinstance(node, dict):
        return node
    if node.get("class") == "dict" and isinstance(node.get("items"), dict):
        return {key: _decoded(value, packages, join(path, key)) for key, value in node["items"].items()}
    cls = _dataclass(str(node["class"]), packages, path) if "class" in node else None
    inside = {k: _decoded(v, packages, join(path, k)) for k, v in node.items() if k != "class"}
    return build(cls, inside, path) if cls else inside


def _dataclass(name: str, packages: Sequence[str], path: str) -> type:
    """The dataclass of this name, defined, not only imported, in a module of `packages`."""
    module_name, _, short = name.rpartition(".")
    package = module_name.partition(".")[0]
    if package not in packages:
        remedy = f"if you trust that code, pass packages={(*packages, package)}"
        raise ConfigError(f"{path or 'config'}: {name} is not of {', '.join(packages)}; {remedy}")
    try:
        cls = getattr(importlib.import_module(module_name), short, None)
    except ImportError as error:
        raise ConfigError(f"{path or 'config'}: cannot import {module_name}: {error}") from error
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__module__ == module_name):
        raise ConfigError(
            f"{path or 'config'}: {module_name} defines no dataclass {short!r}; is it of another version?"
        )
    return cls
