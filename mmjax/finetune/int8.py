"""Weights as 8-bit integers, and products of such weights with activations made integers on the way.

Symmetric quantisation (Wu et al. 2020, arXiv:2004.09602, sections 3 and 4): x ~ scale q with whole q in
[-127, 127]. Of weights there is a scale for each output of a kernel, in each layer where it holds several,
and for each row of a table of embeddings; of activations one for each row of a matrix product, and for each
example of a convolution, so that an example does not depend on its batch.

An array that was quantised is a dict {"int8": q, "scale": float32} in its place, the scale with axes of
length 1 where it is shared. Letters: I inputs, O outputs.
"""

import contextlib
import functools
import re
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmjax.optim.paths import kernel_axes, map_paths
from mmjax.sharding import layer_axes
from mmjax.towers.dense import Dense

Activations = Literal["none", "int8"]

_MOST = 127  # -128 has no counterpart
_PARTS = {"int8", "scale"}
# Norms, biases, positions and other tokens are small, and what an objective learned is not a tower's.
_WEIGHTS = re.compile(r"^(?!objective/).*(kernel|embedding)$")


def quantised(params, keep: str | None = None):
    """Parameters with kernels and tables of embeddings as integers, all else as it is.

    Args:
        keep: regular expression: of what stays float32, too.
    """

    def one(path, x):
        if not _WEIGHTS.search(path) or (keep is not None and re.search(keep, path)):
            return x
        inputs, outputs = kernel_axes(path, x)
        first = layer_axes(path)
        shared = (x.ndim - 1,) if path.endswith("embedding") else range(first, x.ndim - outputs)
        return dict(zip(("int8", "scale"), integers(x, tuple(shared)), strict=True))

    return map_paths(one, params)


def floats(params):
    """What `quantised` parameters stand for, all of it float32."""
    return jax.tree.map(
        lambda x: x["int8"] * x["scale"] if _is_quantised(x) else x, params, is_leaf=_is_quantised
    )


def integers(x, axes: tuple[int, ...]):
    """(int8, float32 scale) of `x`, with one scale over `axes`; what is zero all over them has scale 1.

    Of what two such parts stand for they are found again.
    """
    most = jnp.max(jnp.abs(x.astype(jnp.float32)), axis=axes, keepdims=True)
    scale = jnp.where(most == 0, 1, most / _MOST)
    return jnp.round(x / scale).astype(jnp.int8), scale


def computing(function: Callable, activations: Activations, **jit) -> Callable:
    """`function`, whose first argument is parameters, jitted for `quantised` ones.

    With int8 activations each `Dense` of ours, and each `Dense` and `Conv` of Flax, multiplies integers, and
    sums them up exactly; what other modules do with weights, they do in their own dtype.

    Args:
        function: one that was never traced before, since JAX would go on with what it found then.
        jit: options of `jax.jit`.
    """

    def compute(params, *rest):
        way = nn.intercept_methods(_in_integers) if activations == "int8" else contextlib.nullcontext()
        with way:
            return function(floats(params), *rest)

    return jax.jit(compute, **jit)


def _is_quantised(x) -> bool:
    return isinstance(x, dict) and x.keys() == _PARTS


def _in_integers(next_function, args, kwargs, context):
    """What Linen calls in place of a module's method: the same module, with another product."""
    module = context.module
    field, product = _PRODUCTS.get(type(module), (None, None))
    if field is None or context.method_name != "__call__" or getattr(module, field) is not None:
        return next_function(*args, **kwargs)
    # What the module hands to its product may be rounded to bfloat16, of which the integers are not found.
    kernel = module.variables["params"]["kernel"]
    replaced = module.clone(parent=None, **{field: functools.partial(product, kernel)})
    return replaced.apply(module.variables, *args, **kwargs)


def _multiplied(kernel, x, kernel_IO, *_, **__):
    """x @ kernel."""
    x_int8, x_scale = integers(x, (x.ndim - 1,))
    kernel_int8, kernel_scale = integers(kernel.reshape(kernel_IO.shape), (0,))
    axes = (((x.ndim - 1,), (0,)), ((), ()))
    sums = jax.lax.dot_general(x_int8, kernel_int8, axes, preferred_element_type=jnp.int32)
    return (sums * (x_scale * kernel_scale[0])).astype(x.dtype)


def _convolved(kernel, x, _, *args, **kwargs):
    x_int8, x_scale = integers(x, tuple(range(1, x.ndim)))
    kernel_int8, kernel_scale = integers(kernel, tuple(range(kernel.ndim - 1)))
    kwargs |= {"precision": None, "preferred_element_type": jnp.int32}
    sums = jax.lax.conv_general_dilated(x_int8, kernel_int8, *args, **kwargs)
    return (sums * (x_scale * kernel_scale)).astype(x.dtype)


# The field of a module that says how it multiplies, and by what it is replaced.
_PRODUCTS = {
    Dense: ("multiply", _multiplied),
    nn.Dense: ("dot_general", _multiplied),
    nn.Conv: ("conv_general_dilated", _convolved),
}
