"""A config file and the command line, read into a config."""

import importlib.util
import inspect
import pathlib
import sys
import traceback
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmjax.config.checking import annotations, build, check, fit, parse
from mmjax.config.tree import (
    ConfigError,
    children,
    is_dataclass,
    join,
    suggestion,
    to_text,
    unknown,
)


def load(spec: str, overrides: Sequence[str] = ()) -> Any:
    """The dataclass that `get_config` of a Python file returns, every field checked against its annotation.

    Args:
        spec: `path.py[:flag,name=value,...]`; what follows the colon are arguments of `get_config`, typed by
            its annotations or defaults. A bare name is True; values hold no comma.
        overrides: `a.b=value`, typed by the annotation of the field. Of two for one path the later counts.

    Raises:
        ConfigError: no such file, field or type, or the file or a class refuses its values.
    """
    name, _, arguments = spec.partition(":")
    path = pathlib.Path(name).absolute()
    if not path.is_file():
        others = sorted(str(pathlib.Path(name).with_name(other.name)) for other in path.parent.glob("*.py"))
        raise ConfigError(f"--config={spec}: there is no file {name}; {suggestion(name, others)}")
    try:
        cfg = _call(_imported(path), arguments, name)
    except ConfigError:
        raise
    except Exception as error:  # a config file may do anything wrong
        raise ConfigError(_diagnosis(error, path, name)) from error
    if not is_dataclass(cfg):
        raise ConfigError(f"{name}: get_config must return a dataclass, got {cfg!r}")
    check(cfg, f"{name}: ")
    return override(cfg, overrides)


def override(cfg: Any, overrides: Sequence[str]) -> Any:
    """`cfg` with `a.b=value` overrides, each typed by the annotation of its field.

    Raises:
        ConfigError: no such field or type, or a class refuses its values.
    """
    changes = _nested(overrides)
    return _replaced(cfg, type(cfg), changes, "") if changes else cfg


def _imported(path: pathlib.Path) -> Callable[..., Any]:
    """The function `get_config` of a Python file, which may import from its own folder and from the cwd."""
    for folder in (str(pathlib.Path.cwd()), str(path.parent)):
        if folder not in sys.path:
            sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path.name} is no Python file; a config's name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and typing look up a class's module there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path.name} has no get_config; write one that returns the config")
    return module.get_config


def _call(get_config: Callable[..., Any], arguments: str, name: str) -> Any:
    """What `get_config` returns for arguments written as `flag,name=value`."""
    hints = typing.get_type_hints(get_config)
    kinds = {}
    for parameter in inspect.signature(get_config).parameters.values():
        guess = Any if parameter.default in (None, parameter.empty) else type(parameter.default)
        kinds[parameter.name] = hints.get(parameter.name, guess)
    given = {}
    for argument in filter(None, arguments.split(",")):
        key, equals, text = argument.partition("=")
        if key not in kinds:
            raise ConfigError(f"{name}: get_config takes no {key!r}; {suggestion(key, kinds)}")
        at = f"{name}:{key}"
        given[key] = parse(text, kinds[key], at) if equals else fit(True, kinds[key], at)
    return get_config(**given)


def _diagnosis(error: Exception, path: pathlib.Path, name: str) -> str:
    """What the config file at `path` did wrong, and on which line of it or of a file beside it."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    place, message = name, str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = pathlib.Path(frame.f_code.co_filename)
        if file.parent == path.parent:
            place = f"{pathlib.Path(name).with_name(file.name)}:{line}"
        if frame.f_code.co_name == "__post_init__":
            try:  # a class's own checks stumble over a value of a wrong type before ours see it
                check(frame.f_locals["self"])
            except ConfigError as cause:
                message = str(cause)
    return f"{place}: {message}"


def _nested(overrides: Sequence[str]) -> dict[str, Any]:
    """`a.b=value` overrides as nested dicts of texts."""
    changes: dict[str, Any] = {}
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"override {override!r} sets nothing; write it as field.subfield=value")
        *parents, last = path.split(".")
        node: Any = changes
        for step in parents:
            node = node.setdefault(step, {}) if isinstance(node, dict) else node
        if not isinstance(node, dict) or isinstance(node.get(last), dict):
            raise ConfigError(f"override {override!r} and another set a whole and a part of it; drop one")
        node[last] = text
    return changes


def _replaced(node: Any, kind: Any, changes: dict[str, Any], path: str) -> Any:
    """`node`, annotated `kind`, with `changes` applied; a dataclass is rebuilt once, with all of its own."""
    new, kinds = children(node), annotations(node, kind)
    if not new:
        raise ConfigError(f"{path}={to_text(node)} has no fields to set; change it in the config file")
    for step, change in changes.items():
        at = join(path, step)
        if step not in new:
            raise unknown(step, new, path, type(node))
        if isinstance(change, dict):
            new[step] = _replaced(new[step], kinds[step], change, at)
        elif is_dataclass(new[step]) and change not in ("None", "none"):
            part = join(at, next(iter(children(new[step])), "field"))
            cls = type(new[step]).__name__
            raise ConfigError(f"{at}: {change!r} is no {cls}; set what is in it, such as {part}=...")
        else:
            new[step] = parse(change, kinds[step], at)
    if isinstance(node, Mapping):
        return new
    return tuple(new.values()) if isinstance(node, tuple) else build(type(node), new, path)
