"""Contrastive losses against float64 NumPy written from the papers' equations, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mmjax.kernels import contrastive
from mmjax.kernels.contrastive import streaming, tiles, transport
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
        check_grads(jax.jit(loss), (jnp.asarray(x), jnp.asarray(y), 5.0), order=1, modes=["rev"])


def test_infonce_is_log_batch_for_embeddings_without_information():
    same = np.tile(unit_rows(0, 1, 8), (32, 1))
    # A similarity of float32 is off by 1e-7, its logit by a hundred times that.
    np.testing.assert_allclose(contrastive.infonce(same, same, 100.0), np.log(32), atol=2e-5)


def test_losses_stay_finite_and_vanish_for_perfect_embeddings_at_a_high_scale():
    x = np.eye(8, dtype=np.float32)
    np.testing.assert_allclose(contrastive.infonce(x, x, 1e4), 0.0, atol=1e-6)
    np.testing.assert_allclose(contrastive.sigmoid(x, x, 1e4, -5e3), 0.0, atol=1e-6)


def on_eight_devices(loss, *args, shape=(8, 1, 1)):
    """The loss and its gradients by every argument, the first two split over a mesh of that shape."""
    mesh = make_mesh(MeshShape(data=shape[0], fsdp=shape[1], tensor=shape[2]))
    value_and_grad = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(args)))))
    with jax.set_mesh(mesh):
        return value_and_grad(*put_batch(mesh, args[:2]), *args[2:])


def assert_close(found, expected, rtol):
    """Relative to the norm of each array: single entries of a gradient may be sums that all but cancel."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        assert one.shape == other.shape
        assert np.linalg.norm(one - other) <= rtol * np.linalg.norm(other)


@pytest.fixture
def many_small_tiles(monkeypatch):
    """Of 8 x 8 logits at most, and gathered in parts of 3 rows a device: a few dozen pairs need many."""
    monkeypatch.setattr(tiles, "_LEAST", 64)
    monkeypatch.setattr(tiles, "_MOST", 64)
    monkeypatch.setattr(transport, "GATHERED", 24)


LOSSES = {"infonce": (contrastive.infonce, (14.0,)), "sigmoid": (contrastive.sigmoid, (10.0, -3.0))}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("implementation", ["dense", "ring", "gather"])
def test_loss_and_gradients_do_not_depend_on_mesh_or_implementation(
    name, shape, implementation, many_small_tiles
):
    loss, scalars = LOSSES[name]
    args = unit_rows(0, 40, 12), unit_rows(1, 40, 12), *scalars
    alone = jax.value_and_grad(loss, argnums=tuple(range(len(args))))(*args)
    spread = on_eight_devices(lambda *args: loss(*args, implementation=implementation), *args, shape=shape)
    assert_close(spread, alone, rtol=1e-6)


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
    assert streaming.choose("auto", pairs, mesh) == expected
