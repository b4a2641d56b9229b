"""Contrastive losses against float64 NumPy written from the papers' equations, and their limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contrasting import assert_close, on_eight_devices, unit_rows
from jax.test_util import check_grads

from mmjax.kernels import contrastive
from mmjax.kernels.contrastive import streaming
from mmjax.sharding import MeshShape, make_mesh


def infonce_by_loops(x, y, scale):
    """van den Oord et al. 2018, eq. 4, both ways, one pair at a time."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    total = 0.0
    for i in range(len(x)):
        right = np.exp(scale * x[i] @ y[i])
        total -= np.log(right / sum(np.exp(scale * x[i] @ y[j]) for j in range(len(y))))
        total -= np.log(right / sum(np.exp(scale * x[j] @ y[i]) for j in range(len(x))))
    return total / 2 / len(x)


def sigmoid_by_loops(x, y, scale, bias):
    """Zhai et al. 2023, eq. 1, one pair at a time."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    total = 0.0
    for i in range(len(x)):
        for j in range(len(y)):
            sign = 1 if i == j else -1
            total += np.log(1 / (1 + np.exp(-sign * (scale * x[i] @ y[j] + bias))))
    return -total / len(x)


def test_infonce_equals_its_definition():
    x, y = unit_rows(0, 16, 32), unit_rows(1, 16, 32)
    np.testing.assert_allclose(contrastive.infonce(x, y, 10.0), infonce_by_loops(x, y, 10.0), rtol=1e-6)


def test_sigmoid_equals_its_definition():
    x, y = unit_rows(0, 16, 32), unit_rows(1, 16, 32)
    loss = contrastive.sigmoid(x, y, 10.0, -3.0)
    np.testing.assert_allclose(loss, sigmoid_by_loops(x, y, 10.0, -3.0), rtol=1e-6)


@pytest.mark.parametrize("loss", [contrastive.infonce, lambda x, y, s: contrastive.sigmoid(x, y, s, -3.0)])
def test_gradients_equal_central_differences_in_float64(loss):
    with jax.enable_x64():
        x, y = unit_rows(0, 6, 4, np.float64), unit_rows(1, 6, 4, np.float64)
        check_grads(jax.jit(loss), (jnp.asarray(x), jnp.asarray(y), 5.0), order=1, modes=["rev"])


def test_infonce_is_log_batch_for_embeddings_without_information():
    same = np.tile(unit_rows(0, 1, 8), (32, 1))
    # A similarity of float32 is off by 1e-7, its logit by a hundred times that.
    np.testing.assert_allclose(contrastive.infonce(same, same, 100.0), np.log(32), atol=2e-5)


def test_losses_stay_finite_and_vanish_for_perfect_embeddings_at_a_high_scale():
    x = np.eye(8, dtype=np.float32)
    np.testing.assert_allclose(contrastive.infonce(x, x, 1e4), 0.0, atol=1e-6)
    np.testing.assert_allclose(contrastive.sigmoid(x, x, 1e4, -5e3), 0.0, atol=1e-6)


LOSSES = {"infonce": (contrastive.infonce, (14.0,)), "sigmoid": (contrastive.sigmoid, (10.0, -3.0))}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("implementation", ["ring", "gather"])
def test_tiles_and_transport_change_neither_loss_nor_gradients(name, implementation, many_small_tiles):
    loss, scalars = LOSSES[name]
    args = unit_rows(0, 40, 12), unit_rows(1, 40, 12), *scalars
    alone = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(args)))))(*args)
    spread = on_eight_devices(
        lambda *args: loss(*args, implementation=implementation), *args, shape=(2, 2, 2)
    )
    assert_close(spread, alone, rtol=1e-6)


@functools.cache
def thousands_of_pairs(name):
    """Arguments of a loss of 4,096 pairs, and what the dense form on one device makes of them."""
    loss, scalars = OBJECTIVES[name]
    args = unit_rows(0, 4096, 64), unit_rows(1, 4096, 64), *scalars
    dense = functools.partial(loss, implementation="dense")
    return args, jax.jit(jax.value_and_grad(dense, argnums=tuple(range(len(args)))))(*args)


OBJECTIVES = LOSSES | {"decoupled": (functools.partial(contrastive.infonce, decoupled=True), (14.0,))}


@pytest.mark.parametrize("implementation", ["ring", "gather"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_streamed_gradients_of_thousands_of_pairs_are_those_of_one_device(name, implementation):
    args, dense = thousands_of_pairs(name)
    loss = functools.partial(OBJECTIVES[name][0], implementation=implementation)
    assert_close(on_eight_devices(loss, *args, shape=(2, 4, 1)), dense, rtol=1e-6)


@pytest.mark.parametrize("implementation", ["dense", "ring"])
def test_bfloat16_embeddings_are_summed_in_float32(implementation, many_small_tiles):
    """Their products are exact in float32: only the slopes of the backward pass are rounded to bfloat16."""
    x, y = (jnp.asarray(unit_rows(seed, 40, 12), jnp.bfloat16) for seed in (0, 1))
    loss = functools.partial(contrastive.infonce, implementation=implementation)
    value, grads = on_eight_devices(loss, x, y, 14.0)
    wide = [x.astype(jnp.float32), y.astype(jnp.float32)]
    expected, expected_grads = on_eight_devices(loss, *wide, 14.0)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert [g.dtype for g in grads[:2]] == [jnp.bfloat16] * 2
    assert_close(grads, expected_grads, rtol=5e-3)


def test_batches_of_different_size_are_refused():
    with pytest.raises(ValueError, match="pairs need equal shapes"):
        contrastive.infonce(unit_rows(0, 4, 8), unit_rows(0, 5, 8), 1.0)


def test_an_unknown_implementation_is_refused():
    x = unit_rows(0, 4, 8)
    with pytest.raises(ValueError, match="implementation='rings' is none of"):
        contrastive.infonce(x, x, 1.0, implementation="rings")


def test_a_batch_that_does_not_divide_over_the_devices_is_dense_or_refused():
    x = unit_rows(0, 12, 8)
    with jax.set_mesh(make_mesh(MeshShape())):
        assert np.isfinite(contrastive.infonce(x, x, 1.0))
        with pytest.raises(ValueError, match="batch_size=12 does not divide over 8 devices"):
            contrastive.infonce(x, x, 1.0, implementation="ring")


@pytest.mark.parametrize(
    ("pairs", "shape", "expected"),
    [
        (4096, (8, 1, 1), "dense"),
        (16384, (8, 1, 1), "ring"),
        (8192, (8, 1, 1), "gather"),
        (8192, (2, 1, 4), "ring"),
    ],
)
def test_auto_is_dense_for_small_batches_and_a_ring_where_devices_hold_many_rows(pairs, shape, expected):
    mesh = make_mesh(MeshShape(data=shape[0], fsdp=shape[1], tensor=shape[2]))
    assert streaming.choose("auto", pairs, pairs, mesh) == expected
