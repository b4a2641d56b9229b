"""The compiled train step of a small CLIP on a mesh of sixteen chips that need not be here."""

import collections
import dataclasses
import re

import jax
import tinyclip

from mmjax import sharding
from mmjax.contrastive.step import compile_step, init_state
from mmjax.sharding import MeshShape

ROWS, DEPTH, TOWERS = 32, 2, 2
COLLECTIVES = "all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all"


def program(chips, *, attention, remat="dots", scan=False, accumulate=1):
    """Its text, which has every layer where layers are not scanned."""
    encoder = tinyclip.ENCODER.clone(
        depth=DEPTH, heads=4, head_width=64, attention=attention, remat=remat, scan=scan, dtype="bfloat16"
    )
    cfg = tinyclip.config(ROWS, encoder=encoder, accumulate=accumulate)
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


def kernels(text, target):
    return text.count(f'custom_call_target="{target}')


def collectives(text):
    """How many of each kind."""
    return collections.Counter(re.findall(rf" ({COLLECTIVES})(?:-start)?\(", text))
