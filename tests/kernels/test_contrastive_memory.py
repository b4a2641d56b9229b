"""What XLA sets aside for the loss and all its gradients, on each of eight devices."""

import functools

import jax
import jax.numpy as jnp
import pytest

from mmjax.kernels import contrastive
from mmjax.sharding import MeshShape, batch_sharding, make_mesh

WIDTH = 256
INFONCE = (contrastive.infonce, 1)
SIGMOID = (contrastive.sigmoid, 2)


@functools.cache
def temporary_mib(loss, scalars, pairs, implementation):
    """MiB a device beside the embeddings and their gradients; nothing is run."""
    mesh = make_mesh(MeshShape())
    z = jax.ShapeDtypeStruct((pairs, WIDTH), jnp.float32, sharding=batch_sharding(mesh))
    args = (z, z, *[jax.ShapeDtypeStruct((), jnp.float32)] * scalars)
    gradient = jax.value_and_grad(
        functools.partial(loss, implementation=implementation), argnums=tuple(range(len(args)))
    )
    with jax.set_mesh(mesh):
        compiled = jax.jit(gradient).lower(*args).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


@pytest.mark.parametrize(
    ("loss", "pairs", "implementation", "most_mib"),
    [
        (INFONCE, 16_384, "auto", 16),
        (INFONCE, 16_384, "gather", 16),
        (SIGMOID, 16_384, "auto", 16),
        (INFONCE, 262_144, "auto", 256),
        (SIGMOID, 262_144, "auto", 256),
        (INFONCE, 1_048_576, "auto", 1024),
    ],
)
def test_memory_stays_below_that_of_a_few_copies_of_the_embeddings(loss, pairs, implementation, most_mib):
    assert temporary_mib(*loss, pairs, implementation) <= most_mib


def test_memory_grows_no_faster_than_the_batch():
    small, large = (temporary_mib(*INFONCE, pairs, "auto") for pairs in (16_384, 262_144))
    assert large <= 1.02 * small * 262_144 / 16_384
