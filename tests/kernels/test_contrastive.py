"""Contrastive losses against float64 NumPy written from the papers' equations, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mmjax.kernels import contrastive
from mmjax.sharding import MeshShape, make_mesh, put_batch


def unit_rows(seed, rows, width, dtype=np.float32):
    x = np.random.default_rng(seed).standard_normal((rows, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


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
        check_grads(loss, (jnp.asarray(x), jnp.asarray(y), 5.0), order=1, modes=["rev"])


def test_infonce_is_log_batch_for_embeddings_without_information():
    same = np.tile(unit_rows(0, 1, 8), (32, 1))
    np.testing.assert_allclose(contrastive.infonce(same, same, 100.0), np.log(32), rtol=1e-6)


def test_losses_stay_finite_and_vanish_for_perfect_embeddings_at_a_high_scale():
    x = np.eye(8, dtype=np.float32)
    np.testing.assert_allclose(contrastive.infonce(x, x, 1e4), 0.0, atol=1e-6)
    np.testing.assert_allclose(contrastive.sigmoid(x, x, 1e4, -5e3), 0.0, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1), (2, 2, 2)], ids=str)
def test_loss_and_gradients_do_not_depend_on_the_mesh(shape):
    x, y = unit_rows(0, 16, 32), unit_rows(1, 16, 32)
    value_and_grad = jax.value_and_grad(contrastive.infonce, argnums=(0, 1, 2))
    alone, alone_grads = value_and_grad(x, y, 10.0)
    mesh = make_mesh(MeshShape(data=shape[0], fsdp=shape[1], tensor=shape[2]))
    with jax.set_mesh(mesh):
        spread, spread_grads = jax.jit(value_and_grad)(*put_batch(mesh, (x, y)), 10.0)
    np.testing.assert_allclose(spread, alone, rtol=1e-6)
    for one, other in zip(spread_grads, alone_grads, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-8)


def test_batches_of_different_size_are_refused():
    with pytest.raises(ValueError, match="pairs need equal shapes"):
        contrastive.infonce(unit_rows(0, 4, 8), unit_rows(0, 5, 8), 1.0)
