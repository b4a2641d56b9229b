"""A train step with attention's kernels on a TPU pod, as libtpu compiles it without the pod's chips."""

import collections
import dataclasses
import re

import jax
import pytest
import tinyclip

from mmjax import sharding
from mmjax.contrastive.step import compile_step, init_state
from mmjax.sharding import MeshShape

pytestmark = pytest.mark.tpu_aot

ROWS, DEPTH = 32, 2
COLLECTIVES = "all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all"


def program(chips, *, attention, remat="dots"):
    """The compiled train step of a small CLIP; layers unrolled, so that its text has every layer."""
    encoder = tinyclip.ENCODER.clone(
        depth=DEPTH, heads=4, head_width=64, attention=attention, remat=remat, scan=False, dtype="bfloat16"
    )
    cfg = tinyclip.config(ROWS, encoder=encoder)
    cfg = dataclasses.replace(cfg, mesh=MeshShape(data=4, fsdp=2, tensor=2))
    mesh = sharding.make_mesh(cfg.mesh, chips)
    where = sharding.batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
        for name, x in tinyclip.batch(ROWS).items()
    }
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(lambda: init_state(cfg, ROWS))
        return compile_step(cfg, mesh, sharding.shardings(mesh, shapes), shapes, batch).as_text()


def test_on_a_mesh_kernels_add_no_collective(tpu_chips):
    def sent(attention):
        text = program(tpu_chips("v5e:4x4"), attention=attention)
        kernels = len(re.findall(r"custom_call_target=\"tpu_custom_call\"", text))
        return kernels, collections.Counter(re.findall(rf" ({COLLECTIVES})(?:-start)?\(", text))

    (none, plain), (kernels, found) = sent("xla"), sent("auto")
    # Of both towers, forward and backward: the forward kernel's output is saved, so that it runs once.
    assert (none, kernels) == (0, 2 * DEPTH * 2)
    assert found - plain == collections.Counter()


def test_without_anything_saved_the_forward_kernel_runs_again(tpu_chips):
    text = program(tpu_chips("v5e:4x4"), attention="auto", remat="full")
    assert text.count('custom_call_target="tpu_custom_call"') == 3 * DEPTH * 2
