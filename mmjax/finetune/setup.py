"""What is known of a finetune before its first array: the resolved config, and what comes from where."""

import dataclasses
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax import sharding
from mmjax.data import pipeline, preparing
from mmjax.finetune import heads, zero_shot
from mmjax.finetune.adapt import Adapt
from mmjax.finetune.base import Base
from mmjax.finetune.context import Prompts
from mmjax.finetune.network import FUSION, HEAD, Network
from mmjax.finetune.step import init_state
from mmjax.finetune.weights import NEW, Weights, weights_of


class Shapes(NamedTuple):
    """Trees of `jax.ShapeDtypeStruct`s."""

    towers: Any  # all parameters of the towers
    start: Any  # those that training begins with
    fixed: Any  # those that it leaves as they are, and such of heads
    state: Any  # the train state


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """A finetune that can be run."""

    cfg: Any  # a resolved `Classify`
    base: Base
    mesh: Mesh
    network: Network
    weights: Weights
    shapes: Shapes

    def read(self, shapes):
        """A part of the parameters of towers, or of the text tower in the heads that have one."""
        found = self.weights.read({name: x for name, x in shapes.items() if name != HEAD})
        if HEAD in shapes:
            layout = sharding.with_layout(shapes[HEAD], sharding.shardings(self.mesh, shapes[HEAD]))
            found[HEAD] = {task: zero_shot.fixed_of(self.base, x) for task, x in layout.items()}
        return found

    def first_state(self, layout, fixed):
        """The state that training begins with."""
        kernels = {
            name: zero_shot.kernel(self.base, task.head, task.labels.names, self.mesh)
            for name, task in self.cfg.tasks.items()
            if isinstance(task.head, heads.Prompted) and not task.keep_head
        }
        make = jax.jit(lambda *parts: init_state(self.cfg, self.network, *parts), out_shardings=layout)
        kept = self.weights.read(_kept(self.cfg, self.shapes.state["params"]))
        return make(self.read(self.shapes.start), fixed, kernels, kept)


def set_up(cfg, base: Base, mesh: Mesh | None = None) -> Setup:
    """A `Classify` on a checkpoint; no array is read.

    Raises:
        ValueError: the checkpoint, the data and the config do not fit; says what does not.
    """
    preparing.check_has(cfg.data, cfg.towers)
    cfg = resolved(cfg, base)
    mesh = sharding.make_mesh(cfg.mesh) if mesh is None else mesh
    sharding.check_batch(mesh, cfg.data.batch_size)
    if "image" in cfg.towers:
        pipeline.check_size(cfg.data, cfg.preprocess.size)
    network = Network.of(cfg)
    with jax.set_mesh(mesh):
        shapes = shapes_of(cfg, network)
    there = base.shapes()
    _check_kept(cfg, base, there, shapes.state["params"])
    weights = _weights(cfg, base, mesh, network, shapes)
    return Setup(cfg=cfg, base=base, mesh=mesh, network=network, weights=weights, shapes=shapes)


def resolved(cfg, base: Base):
    """The config with all that it takes from the checkpoint and from the training data, which is prepared.

    Raises:
        ValueError: the checkpoint has not these towers, or prepares pictures otherwise; a head has another
            number of classes than the data.
    """
    there = base.config.preprocess
    preprocess = cfg.preprocess or there
    if preprocess != dataclasses.replace(there, size=preprocess.size):
        raise ValueError(
            f"preprocess={preprocess} differs from the checkpoint's {there} in more than its size; leave it "
            "out, or change the size alone"
        )
    return dataclasses.replace(
        cfg,
        init_from=base.name,
        towers={modality: _resolved(tower, modality, base) for modality, tower in cfg.towers.items()},
        tasks={
            name: _with_prompts(task.resolved(name, cfg.data.train), base) for name, task in cfg.tasks.items()
        },
        preprocess=preprocess,
    )


def _weights(cfg, base: Base, mesh: Mesh, network: Network, shapes: Shapes) -> Weights:
    """Of the towers, and of the heads and the fusion that are trained."""
    params, there = shapes.state["params"], base.shapes()
    beside = {name: params[name] for name in (HEAD, FUSION) if name in params}
    kept = _kept(cfg, params)
    adapts = {modality: tower.adapt for modality, tower in cfg.towers.items()}
    adapts |= {name: _adapt(name, x, there.get(name, {}), kept.get(name, {})) for name, x in beside.items()}
    return weights_of(
        base,
        adapts,
        {**shapes.towers, **beside},
        lambda modality: _init_tower(cfg, network, modality),
        mesh,
        new={modality: tower.tune.new for modality, tower in cfg.towers.items()},
    )


def _adapt(name: str, here, there, kept) -> Adapt:
    """What begins anew and what is left out of a tree whose parts `kept` alone come from a checkpoint."""
    if not kept:
        return NEW
    return Adapt(
        fresh=_parts(name, [part for part in here if part not in kept]),
        drop=_parts(name, [part for part in there if part not in kept]),
    )


def _parts(name: str, parts: list[str]) -> str | None:
    return f"^{name}/({'|'.join(map(re.escape, parts))})(/|$)" if parts else None


def _kept(cfg, params):
    """Heads that training goes on with, and the fusion that they were trained on."""
    wanted = {name: params[HEAD][name] for name, task in cfg.tasks.items() if task.keep_head}
    if not wanted:
        return {}
    return {HEAD: wanted} | ({FUSION: params[FUSION]} if FUSION in params else {})


def _check_kept(cfg, base: Base, there, here):
    """Raises ValueError where a task keeps a head that the checkpoint has not, or for other classes, or on
    another fusion."""
    for name in (name for name, task in cfg.tasks.items() if task.keep_head):
        old, new = (jax.tree.map(jnp.shape, tree.get(HEAD, {}).get(name)) for tree in (there, here))
        fusions = [jax.tree.map(jnp.shape, tree.get(FUSION, {})) for tree in (there, here)]
        if (
            old != new
            or fusions[0] != fusions[1]
            or base.config.tasks[name].labels.names != cfg.tasks[name].labels.names
        ):
            raise ValueError(
                f"tasks.{name}.keep_head: {base.workdir} has no such head for the same classes and fusion; "
                "begin with a finetune of this task, or leave it out"
            )


def _resolved(tower, modality: str, base: Base):
    """A `Backbone` with what it takes from the checkpoint."""
    there = base.tower(modality)
    tokenizer = (tower.tokenizer or base.config.tokenizer) if modality == "text" else None
    module = tower.tune.module(tower.module or there)
    return dataclasses.replace(tower, module=module, tokenizer=tokenizer)


def _with_prompts(task, base: Base):
    """A task whose head, where it learns prompts, has the checkpoint's text tower."""
    if not isinstance(task.head, Prompts):
        return task
    return dataclasses.replace(task, head=zero_shot.with_text(task.head, base, task.labels.names))


def shapes_of(cfg, network: Network) -> Shapes:
    """Of a resolved config.

    Raises:
        ValueError: a pattern of the optimizer or of what is tuned names nothing.
    """
    towers = jax.eval_shape(lambda: {name: _init_tower(cfg, network, name) for name in cfg.towers})
    start, fixed = network.tuned.start(towers), network.tuned.fixed(towers)
    fixed |= network.fixed_heads(jax.eval_shape(network.init_heads, jax.random.key(0), towers))
    state = jax.eval_shape(lambda *parts: init_state(cfg, network, *parts), start, fixed)
    return Shapes(towers, start, fixed, state)


def _init_tower(cfg, network: Network, modality: str):
    of_seed = jax.random.fold_in(jax.random.key(cfg.seed), 1)
    key = jax.random.fold_in(of_seed, list(cfg.towers).index(modality))
    return network.towers[modality].init(key, network.examples(1)[modality])["params"]
