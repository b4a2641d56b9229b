"""What is known of a finetune before its first array: the resolved config, and what comes from where."""

import dataclasses
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax import sharding
from mmjax.data import pipeline, preparing
from mmjax.data.tokenizers import Tokenizer
from mmjax.finetune import heads, inherited, zero_shot
from mmjax.finetune.adapt import Adapt
from mmjax.finetune.base import Base
from mmjax.finetune.context import Prompts
from mmjax.finetune.network import FUSION, HEAD, Network
from mmjax.finetune.step import init_state
from mmjax.finetune.weights import NEW, Weights, weights_of
from mmjax.model import check_marks, check_vocab


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

    def tokenizer(self) -> Tokenizer | None:
        """Of texts, where there is a tower for them: the checkpoint's, for rows as the config says."""
        return self.base.tokenizer(self.cfg.tokenizer) if "text" in self.cfg.towers else None

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
    if "text" in cfg.towers:
        check_vocab(shapes.towers["text"], cfg.tokenizer.vocab)
        check_marks(cfg.towers["text"].module, cfg.tokenizer)
    there = base.shapes()
    _check_kept(cfg, base, there, shapes.state["params"])
    weights = _weights(cfg, base, mesh, network, shapes)
    return Setup(cfg=cfg, base=base, mesh=mesh, network=network, weights=weights, shapes=shapes)


def resolved(cfg, base: Base):
    """The config with all that it takes from the checkpoint and from the training data, which is prepared.

    Raises:
        ValueError: the checkpoint has not these towers, or prepares pictures or texts otherwise, or lacks
            what a head takes from it; a head has another number of classes than the data.
    """
    preprocess = cfg.preprocess or base.config.preprocess
    if "image" in cfg.towers:
        inherited.check_preprocess(preprocess, base.config.preprocess)
    return dataclasses.replace(
        cfg,
        init_from=base.name,
        towers={name: inherited.of_checkpoint(name, tower, base) for name, tower in cfg.towers.items()},
        tasks={
            name: _with_texts(task.resolved(name, cfg.data.train), base) for name, task in cfg.tasks.items()
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
        if old != new or fusions[0] != fusions[1] or not _same_question(base.config, cfg, name):
            raise ValueError(
                f"tasks.{name}.keep_head: {base.workdir} has no such head for the same classes and fusion; "
                "begin with a finetune of this task, or leave it out"
            )


def _same_question(before, cfg, name: str) -> bool:
    """Whether a task's head is computed alike, of the same towers and for the same classes; parameters of the
    same shapes do not tell."""
    old, new = ((c.tasks[name].labels.names, [*c.towers]) for c in (before, cfg))
    modules = [(heads.in_use(c.tasks[name].head), heads.in_use(c.fusion)) for c in (before, cfg)]
    return old == new and modules[0] == modules[1]


def _with_texts(task, base: Base):
    """A task whose head, where it learns prompts, has the checkpoint's text tower; checks what begins with
    names of classes."""
    begins = isinstance(task.head, heads.Prompted) and not task.keep_head
    if begins or isinstance(task.head, Prompts):
        zero_shot.check(task.head, base)
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
