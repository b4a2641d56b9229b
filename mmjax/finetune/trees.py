"""Parts of nested dicts of parameters."""

import jax


def pick(tree, chosen):
    """The part of a nested dict that `chosen`, a tree of bool, is true for; empty dicts are left out."""
    if not isinstance(tree, dict):
        return tree
    found = {}
    for name, value in tree.items():
        if any(jax.tree.leaves(chosen[name])):
            found[name] = pick(value, chosen[name])
    return found


def without(tree, other):
    """The part of a nested dict that is not in `other`; empty dicts are left out."""
    found = {}
    for name, value in tree.items():
        if name not in other:
            found[name] = value
        elif isinstance(value, dict) and (rest := without(value, other[name])):
            found[name] = rest
    return found


def together(one, other):
    """Two nested dicts without a path in common as one."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        raise ValueError("two trees hold the same path")
    return {
        name: together(one[name], other[name]) if name in one and name in other else (one | other)[name]
        for name in [*one, *(name for name in other if name not in one)]
    }
