"""What the losses send on a TPU pod, read off the program that libtpu compiles for one without its chips."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest

from mmjax.kernels import contrastive
from mmjax.kernels.contrastive.transport import GATHERED
from mmjax.sharding import MeshShape, batch_sharding, make_mesh, replicated

pytestmark = pytest.mark.tpu_aot

WIDTH = 128
BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}


@pytest.fixture
def mesh(tpu_chips):
    return make_mesh(MeshShape(data=-1, fsdp=4), tpu_chips("v5e:4x4"))


def sent(mesh, loss, scalars, pairs, implementation):
    """(collective, bytes of its result on one chip) for each one in the loss and all its gradients."""
    z = jax.ShapeDtypeStruct((pairs, WIDTH), jnp.float32, sharding=batch_sharding(mesh))
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh))
    args = (z, z, *[scalar] * scalars)
    loss = functools.partial(loss, implementation=implementation)
    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(args)))))
        program = gradient.lower(*args).compile().as_text()
    kinds = "all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all"
    for shapes, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", program):
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        size = max(BYTES[dtype] * math.prod(int(n) for n in dims.split(",") if n) for dtype, dims in arrays)
        yield kind, size


@pytest.mark.parametrize(
    ("loss", "scalars", "statistics"), [(contrastive.infonce, 1, 8 + 12), (contrastive.sigmoid, 2, 4 + 4)]
)
def test_a_ring_sends_what_the_formula_says_to_neighbours_and_reduces_only_scalars(
    mesh, loss, scalars, statistics
):
    pairs, devices = 32_768, 16
    found = list(sent(mesh, loss, scalars, pairs, "auto"))
    assert {kind for kind, _ in found} == {"collective-permute", "all-reduce"}
    assert all(size == 4 for kind, size in found if kind == "all-reduce")
    hops = [size for kind, size in found if kind == "collective-permute"]
    # Each stands in a loop of a turn for each device: columns twice, gradients once; docs/exactness.md.
    assert devices * sum(hops) == pairs * (3 * 4 * WIDTH + statistics)


def test_a_gather_holds_no_more_than_its_bound_whatever_the_batch(mesh):
    found = list(sent(mesh, contrastive.infonce, 1, 16_384, "auto"))
    assert {kind for kind, _ in found} >= {"all-gather", "all-to-all"}
    assert max(size for _, size in found) == GATHERED * WIDTH * 4
