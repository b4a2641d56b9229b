"""Steps of training are the same on every mesh as on one device."""

import functools

import jax
import numpy as np
import pytest
import tinyclip

from mmjax import sharding
from mmjax.contrastive.step import compile_step, init_state, make_step
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.optim import Optim

# On the slow one test_memory takes steps, too.
MESHES = [(8, 1, 1), pytest.param((2, 4, 1), marks=pytest.mark.slow), (2, 2, 2), (1, 1, 8)]
OBJECTIVES = {"infonce": InfoNCE(initial_scale=10.0), "sigmoid": Sigmoid()}


@functools.cache
def start(name):
    """A config and its first state, with weights drawn by NumPy."""
    cfg = tinyclip.config(objective=OBJECTIVES[name], optim=Optim(lr=1e-3))
    shapes = jax.eval_shape(lambda: init_state(cfg, 8))
    state = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
    return cfg, state | {"params": tinyclip.params(cfg)}


def two_steps(step, state, data):
    """The metrics of both."""
    state, first = step(state, data)
    _, second = step(state, data)
    return jax.device_get([first, second])


@functools.cache
def alone(name):
    cfg, state = start(name)
    return two_steps(jax.jit(make_step(cfg)), jax.device_put(state), tinyclip.batch())


@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize("name", ["infonce", pytest.param("sigmoid", marks=pytest.mark.slow)])
def test_steps_on_any_mesh_are_those_on_one_device(name, sizes):
    cfg, state = start(name)
    mesh = tinyclip.mesh_of(sizes)
    layout = sharding.shardings(mesh, state)
    for tower in ("image", "text"):
        split = [leaf for leaf in jax.tree.leaves(layout["params"][tower]) if not leaf.is_fully_replicated]
        assert bool(split) == (sizes != (8, 1, 1))
    with jax.set_mesh(mesh):
        data = sharding.put_batch(mesh, tinyclip.batch())
        step = compile_step(cfg, mesh, layout, jax.eval_shape(lambda: state), data)
    found = two_steps(step, jax.device_put(state, layout), data)
    for given, expected in zip(found, alone(name), strict=True):
        for metric in ("loss", "grad_norm", "grad_norm/image", "grad_norm/text"):
            np.testing.assert_allclose(given[metric], expected[metric], rtol=1e-5, err_msg=metric)
