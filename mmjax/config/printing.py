"""A config, or what changed between two, for people."""

import shlex
from collections.abc import Mapping
from typing import Any

from mmjax.config.tree import class_name, is_branch, is_dataclass, join, nodes, to_text


def show(cfg: Any) -> str:
    """`cfg` as one override a line, quoted for a shell, below comments that name the classes."""
    lines = []
    for path, node in nodes(cfg):
        indent = "  " * path.count(".")
        if is_dataclass(node):
            lines.append(f"{indent}# {path}: {type(node).__name__}" if path else f"# {type(node).__name__}")
        elif not is_branch(node):
            lines.append(f"{indent}{path}={shlex.quote(to_text(node))}")
    return "\n".join(lines)


def differences(a: Any, b: Any) -> list[str]:
    """A line for all that differs, `optim.lr: 0.001 -> 0.002`; none below what changed its class."""
    before, after = dict(nodes(a)), dict(nodes(b))
    lines: dict[str, str] = {}
    for path in before | after:
        if any(path.startswith(join(changed, "")) for changed in lines):
            continue
        if path in before and path in after:
            if _identity(before[path]) == _identity(after[path]):
                continue
            old, new = to_text(before[path]), to_text(after[path])
            if old == new:  # two classes of one name
                old, new = class_name(type(before[path])), class_name(type(after[path]))
        else:
            old = to_text(before[path]) if path in before else "absent"
            new = to_text(after[path]) if path in after else "absent"
        lines[path] = f"{path or 'config'}: {old} -> {new}"
    return list(lines.values())


def _identity(node: Any) -> Any:
    """What must be equal for two nodes to differ at most inside."""
    if is_dataclass(node):
        return type(node)
    if is_branch(node):
        return dict if isinstance(node, Mapping) else tuple
    return node
