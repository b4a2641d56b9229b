"""A classification that compiles within a second: a linear tower, three classes, and files only if asked."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from tinycontrast import drawn_like

from mmjax import sharding
from mmjax.data.geometry import Preprocess, Resize
from mmjax.data.labels import OneClass
from mmjax.data.pipeline import Data
from mmjax.data.sources.scenes import Scenes
from mmjax.finetune import Backbone, Classify, Task, heads, mixing
from mmjax.finetune.network import Network
from mmjax.finetune.setup import shapes_of
from mmjax.finetune.step import init_state, make_step
from mmjax.optim import Optim
from mmjax.sharding import MeshShape
from mmjax.towers import Encoded
from mmjax.towers.batch_norm import BatchNorm

SIZE, EMBED, SOUND = 2, 5, 4
NAMES = ("a", "b", "c")
TASKS = ("class", "one", "other")


class Linear(nn.Module):
    """One dense layer on all pixels; its tokens are the pixels."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, inputs, *, train=False):
        tokens_BSD = jnp.reshape(inputs, (len(inputs), -1, 3))
        return Encoded(nn.Dense(EMBED, name="head")(jnp.reshape(inputs, (len(inputs), -1))), tokens_BSD)


class Normed(nn.Module):
    """The same behind a batch norm of the colours."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, inputs, *, train=False):
        return Linear(name="linear")(BatchNorm(name="norm")(inputs, train=train))


def config(**fields):
    tower, task = fields.pop("tower", {}), fields.pop("task", {})
    cfg = Classify(
        init_from="nowhere@1",
        towers={"image": Backbone(**{"module": Linear()} | tower)},
        tasks={"class": Task(**{"head": heads.Linear(classes=3), "labels": OneClass(names=NAMES)} | task)},
        data=Data(train=Scenes(split="train"), batch_size=8, geometry=(Resize(size=SIZE),)),
        preprocess=Preprocess(size=SIZE),
        steps=10,
        optim=Optim(lr=0.05),
    )
    return dataclasses.replace(cfg, **fields)


def ended(workdir: pathlib.Path, **fields) -> pathlib.Path:
    """The workdir of a finetune that ended with drawn weights."""
    cfg = config(**fields)
    trained = drawn_like(shapes_of(cfg, Network.of(cfg)).state["params"], seed=1)
    placed = jax.device_put(trained, sharding.replicated(sharding.make_mesh(MeshShape())))
    mixing.write(workdir, cfg, None, cfg.steps, placed, {})
    return workdir


def batch(rows=24, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (rows, SIZE, SIZE, 3), np.uint8),
        **{f"label/{task}": np.eye(3, dtype=np.uint8)[rng.integers(0, 3, rows)] for task in TASKS},
        "sound": rng.normal(size=(rows, SOUND, 3)).astype(np.float32),
        "id": np.arange(rows, dtype=np.int32),
    }


def begun(cfg):
    """(network, first state, what is fixed) with a tower of seed 0."""
    network = Network.of(cfg)
    towers = {
        name: network.towers[name].init(jax.random.key(0), x)["params"]
        for name, x in network.examples(1).items()
    }
    start, fixed = network.tuned.start(towers), network.tuned.fixed(towers)
    return network, jax.jit(lambda *parts: init_state(cfg, network, *parts))(start, fixed), fixed


def states(cfg, steps, weight_C=None, data=None):
    """The states after 0, 1, 2 ... steps on one batch, and the metrics of each step."""
    data = batch() if data is None else data
    network, state, fixed = begun(cfg)
    weight_C = np.ones(3, np.float32) if weight_C is None else weight_C
    step = jax.jit(make_step(cfg, network, dict.fromkeys(cfg.tasks, weight_C)))
    found, all_metrics = [state], []
    for _ in range(steps):
        state, metrics = step(state, data, fixed)
        found.append(state)
        all_metrics.append(jax.device_get(metrics))
    return [jax.device_get(state) for state in found], all_metrics
