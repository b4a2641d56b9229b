"""What a tower computes on the way, by name, from the one forward pass that also gives the embedding.

A name is the path of a part of the tower as its parameters have it: `patch`, `norm`, `stage_2_0`. A block of
an `Encoder` is `encoder/block_3`, or `encoder/block_-1` for the last one, whether layers are scanned or not.
`tokens` is `Encoded.tokens_BSD`, the patches or pieces after the last norm. The output of a ViT's block holds
its class token and registers, `ViT.prefix` of them, before the patches.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flax import linen as nn
from jax import Array

from mmjax.towers import Encoded

_LAYERS = re.compile(r"(^|/)(blocks|block_\d+)$")  # of an encoder, scanned or not


class Features(NamedTuple):
    """The tower's own result, and the outputs of its parts by name."""

    encoded: Encoded
    by_name: dict[str, Array]


def features(tower: nn.Module, params, inputs, names: Sequence[str]) -> Features:
    """The outputs of the tower's parts `names` on `inputs`, in evaluation.

    Pure: call it within `jax.jit`, where what no name asks for costs nothing. Of scanned layers all outputs
    are kept until the one asked for is taken.

    Raises:
        ValueError: the tower has no part of that name; says which is nearest.
    """
    seen, layers = set(), any("block_" in name for name in names)

    def is_wanted(module, method):
        path = "/".join(module.path)
        if method != "__call__" or not path:
            return False
        seen.add(path)
        return path in names or layers and _LAYERS.search(path) is not None

    encoded, found = tower.apply(
        {"params": params}, inputs, capture_intermediates=is_wanted, mutable=["intermediates"]
    )
    outputs = {"tokens": encoded.tokens_BSD} | _outputs(found.get("intermediates", {}))
    missing = [name for name in names if name not in outputs]
    if missing:
        known = sorted({path for path in seen if "blocks" not in path} | set(outputs))
        near = difflib.get_close_matches(missing[0], known, n=3) or [n for n in known if n.count("/") < 2]
        raise ValueError(f"the tower has no part {missing[0]!r}; use one of {', '.join(near)}")
    return Features(encoded, {name: outputs[name] for name in names})


def _outputs(parts: Mapping, prefix: str = "") -> dict[str, Array]:
    """Captured outputs by name, those of layers by the names of blocks, counted from either end."""
    outputs, layers = {}, []
    for name, part in parts.items():
        path = f"{prefix}{name}"
        if "__call__" in part:
            (output,) = part["__call__"]
            # A block returns what a scan wants: its output, and nothing to stack.
            outputs[path] = output[0] if isinstance(output, tuple) else output
            if _LAYERS.search(path):
                output = outputs.pop(path)
                layers += list(output) if name == "blocks" else [output]
        inner = {key: value for key, value in part.items() if key != "__call__"}
        outputs |= _outputs(inner, f"{path}/")
    for i, layer in enumerate(layers):
        outputs |= {f"{prefix}block_{i}": layer, f"{prefix}block_{i - len(layers)}": layer}
    return outputs
