"""Floating-point operations of a traced function, and what devices can do: for model FLOPs utilisation.

Counted on the jaxpr, so any module counts, scans with their length (XLA's own analysis counts a scan's body
once). Two operations a multiply-add, matrix products and convolutions only, as is usual
(Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
"""

import math
import time

import jax
import jax.numpy as jnp
from jax.extend import core

# Dense bfloat16 peaks of one device as JAX counts them, in FLOP/s, from the makers' data sheets.
_PEAKS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "Tesla V100": 125e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


def count(function, *args) -> int:
    """Operations of one call of `function(*args)`; the arguments may be `jax.ShapeDtypeStruct`s."""
    return _jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def peak(device) -> float:
    """FLOP/s that one device can reach: its data sheet's figure, or for a CPU and for unknown devices the
    rate of a large float32 product measured now (about a second)."""
    names = [name for name in _PEAKS if device.device_kind.startswith(name)]
    return _PEAKS[max(names, key=len)] if names else _measured_peak(device)


def _measured_peak(device, size=1024, runs=5) -> float:
    product = jax.jit(lambda x, y: x @ y)
    x, y = jax.device_put((jnp.ones((size, size)), jnp.ones((size, size))), device)
    product(x, y).block_until_ready()
    seconds = []
    for _ in range(runs):
        start_s = time.perf_counter()
        product(x, y).block_until_ready()
        seconds.append(time.perf_counter() - start_s)
    return 2 * size**3 / min(seconds)


def _jaxpr_flops(jaxpr) -> int:
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        output_axis = equation.params["dimension_numbers"].rhs_spec[0]
        per_output = math.prod(n for i, n in enumerate(kernel) if i != output_axis)
        return 2 * math.prod(equation.outvars[0].aval.shape) * per_output
    inner = [_jaxpr_flops(jaxpr) for jaxpr in _inner_jaxprs(equation)]
    if name == "cond":
        # One branch runs: of a choice by platform any, each of which counts the same or, if opaque, nothing.
        return max(inner)
    return sum(inner) * _times(equation)


def _times(equation) -> int:
    """How often what is inside an equation runs."""
    if equation.primitive.name == "scan":
        return equation.params["length"]
    if equation.primitive.name == "pallas_call":
        return math.prod(equation.params["grid_mapping"].grid)
    return 1


def _inner_jaxprs(equation):
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
