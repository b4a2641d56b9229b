"""Embeddings, meshes and comparisons that the tests of the contrastive core share."""

import jax
import numpy as np

from mmjax.sharding import MeshShape, make_mesh, put_batch


def unit_rows(seed, rows, width, dtype=np.float32):
    x = np.random.default_rng(seed).standard_normal((rows, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(dtype)


def on_eight_devices(loss, *args, shape=(8, 1, 1)):
    """The loss and its gradients by every argument; matrices are split over a mesh of that shape."""
    mesh = make_mesh(MeshShape(data=shape[0], fsdp=shape[1], tensor=shape[2]))
    args = [put_batch(mesh, x) if np.ndim(x) > 1 else x for x in args]
    with jax.set_mesh(mesh):
        return jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(args)))))(*args)


def assert_close(found, expected, rtol):
    """Relative to the norm of each array: single entries of a gradient may be sums that all but cancel."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        assert one.shape == other.shape
        assert np.linalg.norm(one - other) <= rtol * np.linalg.norm(other)
