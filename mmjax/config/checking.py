"""Values of a config against the annotations of its fields.

Annotations that say nothing of data are not checked: `Any`, type variables, what a Callable takes. A protocol
wants a dataclass, whose methods show at its first use.
"""

import contextlib
import functools
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from mmjax.config.tree import (
    ConfigError,
    children,
    field_names,
    is_dataclass,
    is_module,
    join,
    literal,
    nodes,
    unknown,
)


def check(cfg: Any, where: str = "") -> None:
    """Raises ConfigError, beginning with `where`, unless every field inside `cfg` fits its annotation."""
    for path, node in nodes(cfg):
        if not is_dataclass(node):
            continue
        if is_module(type(node)) and node.name is not None:
            remedy = "leave the name out: the model that holds a module names it"
            raise ConfigError(f"{where}{path or 'config'}: got a module with name={node.name!r}; {remedy}")
        kinds = annotations(node, Any)
        for step, child in children(node).items():
            fit(child, kinds[step], where + join(path, step))


# As shells and JSON write them.
_WORDS = {"true": True, "false": False, "none": None}


def parse(text: str, kind: Any, path: str) -> Any:
    """`text` as a value of type `kind`: the Python literal that it is where that fits, else the string.

    Raises:
        ConfigError: neither is of type `kind`, or it is one of `_WORDS` where a string would do as well.
    """
    found = []
    for value in (literal(text), text, _WORDS.get(text, text)):
        with contextlib.suppress(ConfigError):
            found.append(fit(value, kind, path))
    if text in _WORDS and text in found and _WORDS[text] in found:
        raise ConfigError(
            f'{path}: {text!r} could be a string; write {_WORDS[text]} or, in quotes, "{text!r}"'
        )
    return found[0] if found else fit(text, kind, path)


def build(cls: type, fields: dict[str, Any], path: str) -> Any:
    """An instance of a dataclass: `fields` are checked first, then the class checks itself.

    Raises:
        ConfigError: a field is unknown, missing, of another type or refused; the message names `path`.
    """
    kinds, names = _hints(cls), field_names(cls)
    for name in fields:
        if name not in names:
            raise unknown(name, names, path, cls)
    fields = {name: fit(value, kinds[name], join(path, name)) for name, value in fields.items()}
    try:
        return cls(**fields)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path or cls.__name__}: {error}") from error


def fit(value: Any, kind: Any, path: str) -> Any:
    """`value`, of type `kind`; where that is a float an int becomes one.

    Fields of a dataclass within `value` are not looked at: `check` and `build` do that.

    Raises:
        ConfigError: it is of another type; the message names `path`.
    """
    options = _options(kind)
    for option in options:
        if not _is_instance(value, option):
            continue
        if option is float:
            return float(value)
        if is_dataclass(value) or not isinstance(value, (tuple, Mapping)):
            return value
        try:
            kinds = annotations(value, option)
            inside = {
                step: fit(child, kinds[step], join(path, step)) for step, child in children(value).items()
            }
            return inside if isinstance(value, Mapping) else tuple(inside.values())
        except ConfigError:
            if len(options) == 1:
                raise
    raise ConfigError(f"{path}: wanted {_describe(kind)}, got {value!r}")


def annotations(node: Any, kind: Any) -> dict[str, Any]:
    """The annotation of each child of `node`, which is itself annotated `kind`."""
    steps = list(children(node))
    if is_dataclass(node):
        return {step: _hints(type(node))[step] for step in steps}
    inner = next((typing.get_args(option) for option in _options(kind) if _is_instance(node, option)), ())
    if isinstance(node, Mapping):
        inner = inner[1:]  # the annotation of the keys comes first
    elif inner[1:] == (...,):
        inner = inner[:1]
    if len(inner) <= 1:
        return dict.fromkeys(steps, inner[0] if inner else Any)
    return dict(zip(steps, inner, strict=True))


def _is_instance(value: Any, kind: Any) -> bool:
    """Whether `value` is a `kind`, whatever it holds inside."""
    origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in inner)
    if kind is Any or not isinstance(origin, type):
        return True
    if getattr(kind, "_is_protocol", False):
        return is_dataclass(value)
    if origin in (int, float) and isinstance(value, bool):
        return False
    if origin is tuple and isinstance(value, tuple) and inner and inner[-1] is not ...:
        return len(value) == len(inner)
    return isinstance(value, (int, float) if origin is float else origin)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass, all Any where they name what only type checkers import."""
    try:
        return typing.get_type_hints(cls)
    except NameError:
        return dict.fromkeys(cls.__dataclass_fields__, Any)


def _options(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or `kind` alone."""
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if is_union else (kind,)


def _describe(kind: Any) -> str:
    """An annotation about as its author wrote it, classes without their modules."""
    names = []
    for option in _options(kind):
        if typing.get_origin(option) is typing.Literal:
            names += [repr(choice) for choice in typing.get_args(option)]
        elif option is type(None):
            names.append("None")
        elif isinstance(option, type) and not typing.get_args(option):
            names.append(option.__name__)
        else:
            names.append(re.sub(r"(\w+\.)+", "", str(option)))
    return " | ".join(names)
