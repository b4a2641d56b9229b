"""A config as a tree: what is inside what, and how its paths and values read as text."""

import ast
import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class ConfigError(ValueError):
    """A config that cannot be used; the message says which value, what is wanted and what to do."""


def is_dataclass(node: Any) -> bool:
    """Whether `node` is an instance of a dataclass, not the class itself."""
    return dataclasses.is_dataclass(node) and not isinstance(node, type)


def is_module(cls: type) -> bool:
    """Whether a dataclass is a Flax Linen module, found out without importing Flax."""
    return all(hasattr(cls, name) for name in ("scope", "apply", "bind"))


def is_branch(node: Any) -> bool:
    """Whether `node` is more than one value: a dataclass, a dict that is not empty, a tuple of such."""
    if isinstance(node, tuple):
        return any(is_branch(child) for child in node)
    return is_dataclass(node) or isinstance(node, Mapping) and bool(node)


def field_names(cls: type) -> list[str]:
    """The fields of a dataclass that are config. Linen adds two, for a module's place within a model."""
    added = ("parent", "name") if is_module(cls) else ()
    return [field.name for field in dataclasses.fields(cls) if field.init and field.name not in added]


def children(node: Any) -> dict[str, Any]:
    """What `node` holds, by the step of a path that leads there; empty for a plain value."""
    if isinstance(node, Mapping):
        return dict(node)
    if isinstance(node, tuple):
        return {str(index): child for index, child in enumerate(node)}
    if not is_dataclass(node):
        return {}
    # A function left at its default, as the initializers of Flax's own modules are, is code and not config.
    default = {field.name: field.default for field in dataclasses.fields(node)}
    values = {name: getattr(node, name) for name in field_names(type(node))}
    return {k: v for k, v in values.items() if is_dataclass(v) or not callable(v) or v is not default[k]}


def nodes(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """`node` and everything inside it, each after what holds it, with its path; plain tuples stay whole."""
    yield path, node
    if is_branch(node):
        for step, child in children(node).items():
            yield from nodes(child, join(path, step))


def join(path: str, step: str) -> str:
    """The path that goes one step further than `path`."""
    return f"{path}.{step}" if path else step


def literal(text: str) -> Any:
    """`text` as a Python literal, or itself where it is none."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text


def to_text(node: Any) -> str:
    """A plain value as an override would give it; of anything else what it is, in short."""
    if is_dataclass(node):
        return type(node).__name__
    if isinstance(node, Mapping):
        return "{" + ", ".join(map(str, node)) + "}"
    if is_branch(node):
        return "(" + ", ".join(to_text(child) for child in node) + ")"
    # Quotes where the bare string would be read as something else.
    bare = isinstance(node, str) and node.isprintable() and literal(node) == node
    return node if bare else repr(node)


def class_name(cls: type) -> str:
    """The name by which Python finds a class: its module's path and its own name."""
    return f"{cls.__module__}.{cls.__qualname__}"


def suggestion(given: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not there."""
    known = list(known)
    near = difflib.get_close_matches(given, known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"choose from {', '.join(known)}" if known else "there are none to choose from"


def unknown(step: str, known: Iterable[str], path: str, cls: type) -> ConfigError:
    """The error of a step that does not lead on from `path`, where an instance of `cls` is."""
    return ConfigError(f"{path or 'config'} ({cls.__name__}) has no {step!r}; {suggestion(step, known)}")
