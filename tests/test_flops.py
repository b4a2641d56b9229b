"""Counted operations against formulas and XLA's own analysis; peaks of known devices."""

import functools
import math
import types

import debugrun
import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from mmjax import flops


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def product(x, y):
    return x @ y


def of_xla(function, *args):
    """What XLA counts before it optimises: the same for products and unpadded convolutions without loops."""
    return jax.jit(function).lower(*args).cost_analysis()["flops"]


def test_a_product_costs_two_operations_a_multiply_add():
    args = shape(3, 4), shape(4, 5)
    assert flops.count(product, *args) == 2 * 3 * 4 * 5 == of_xla(product, *args)


def test_a_batched_product_counts_its_batch_once():
    def attend(q, k):
        return jnp.einsum("bqnk,bsnk->bnqs", q, k)

    args = shape(2, 5, 3, 8), shape(2, 7, 3, 8)
    assert flops.count(attend, *args) == 2 * (2 * 3) * 5 * 7 * 8 == of_xla(attend, *args)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_costs_its_window_at_every_output(groups):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (2, 2),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    args = shape(2, 9, 11, 4), shape(3, 5, 4 // groups, 6)
    outputs, window = 2 * 4 * 4 * 6, 3 * 5 * (4 // groups)
    assert flops.count(convolve, *args) == 2 * outputs * window == of_xla(convolve, *args)


def test_a_scan_costs_its_body_at_every_turn():
    def power(x, unroll):
        return jax.lax.scan(lambda y, _: (y @ x, None), x, length=7, unroll=unroll)[0]

    rolled, unrolled = functools.partial(power, unroll=1), functools.partial(power, unroll=7)
    assert flops.count(rolled, shape(4, 4)) == 7 * 2 * 4**3 == flops.count(unrolled, shape(4, 4))


def test_of_branches_the_dearest_counts():
    def either(x, y):
        return jax.lax.cond(True, lambda: x @ y, lambda: x @ y @ y)

    assert flops.count(either, shape(4, 4), shape(4, 4)) == 2 * 2 * 4**3


def test_a_kernel_costs_its_body_at_every_place_of_its_grid():
    def kernel(x_ref, y_ref):
        y_ref[...] = x_ref[...] @ x_ref[...]

    def squares(x):
        spec = pl.BlockSpec((None, 4, 4), lambda i, j: (i, 0, j))
        return pl.pallas_call(kernel, out_shape=x, grid=(3, 2), in_specs=[spec], out_specs=spec)(x)

    assert flops.count(squares, shape(3, 4, 8)) == 3 * 2 * 2 * 4**3


@jax.custom_vjp
def squared(x):
    return x @ x


squared.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T + x.T @ g,))


@pytest.mark.parametrize(
    "wrap",
    [lambda f: f, jax.jit, jax.checkpoint, lambda f: jax.jit(lambda x: jax.checkpoint(f)(x))],
    ids=["custom_vjp", "jit", "remat", "nested"],
)
def test_products_inside_transformations_are_counted(wrap):
    assert flops.count(wrap(squared), shape(4, 4)) == 2 * 4**3
    assert flops.count(jax.vmap(wrap(squared)), shape(3, 4, 4)) == 3 * 2 * 4**3


def test_a_gradient_costs_twice_its_function_and_the_function():
    def loss(x, y):
        return jnp.sum(product(x, y))

    args = shape(3, 4), shape(4, 5)
    assert flops.count(jax.value_and_grad(loss, argnums=(0, 1)), *args) == 3 * flops.count(loss, *args)
    assert flops.count(jax.value_and_grad(lambda x: jnp.sum(squared(x))), shape(4, 4)) == 3 * 2 * 4**3


def transformer(*, positions, width, depth, mlp):
    """Operations of the blocks for one example: four projections, scores and mixtures, two dense layers."""
    projections = 4 * positions * width**2
    attention = 2 * positions**2 * width
    return 2 * depth * (projections + attention + 2 * positions * width * mlp)


def test_the_towers_of_the_debug_config_cost_what_their_layers_do():
    cfg = debugrun.config()
    blocks = transformer(positions=16, width=32, depth=2, mlp=128)
    head = 2 * 32 * 16
    patches = 2 * 16 * (8 * 8 * 3) * 32
    expected = {"image": patches + blocks + head, "text": blocks + head}
    inputs = {"image": shape(4, 32, 32, 3), "text": jax.ShapeDtypeStruct((4, 16), jnp.int32)}
    for name, tower in cfg.towers.items():
        variables = jax.eval_shape(tower.init, jax.random.key(0), inputs[name])
        assert flops.count(tower.apply, variables, inputs[name]) == 4 * expected[name]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("TPU v5", 459e12),
        ("TPU v5 lite", 197e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("Tesla V100-SXM2-16GB", 125e12),
    ],
)
def test_the_peak_of_a_known_device_is_that_of_its_longest_name(kind, expected):
    assert flops.peak(types.SimpleNamespace(device_kind=kind)) == expected


def test_the_peak_of_a_cpu_is_measured():
    rate = flops.peak(jax.devices()[0])
    assert math.isfinite(rate) and rate > 1e8
