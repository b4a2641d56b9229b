"""What is known of a finetune before its first array: the resolved config, and what comes from where."""

import dataclasses
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from mmjax import metrics, sharding
from mmjax.data import pipeline
from mmjax.finetune import adapt, heads, zero_shot
from mmjax.finetune.base import Base
from mmjax.finetune.network import Network
from mmjax.finetune.step import init_state


class Shapes(NamedTuple):
    """Trees of `jax.ShapeDtypeStruct`s."""

    tower: Any  # all parameters of the tower
    start: Any  # those that training begins with
    fixed: Any  # those that it leaves as they are
    state: Any  # the train state


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """A finetune that can be run."""

    cfg: Any  # a resolved `Classify`
    base: Base
    mesh: Mesh
    network: Network
    plan: list[adapt.Step]
    tower: Any
    start: Any
    fixed: Any
    state: Any

    def read(self, shapes):
        """A part of the tower's parameters, of the checkpoint as far as the plan has them from there."""
        if not jax.tree.leaves(shapes):
            return {}
        wanted = sharding.with_layout(shapes, sharding.shardings(self.mesh, shapes))
        with metrics.phase(f"reading {self.base.name}"):
            return adapt.load(self.base, self.cfg.tower.adapt, self.plan, wanted, self._init_tower)

    def first_state(self, layout, fixed):
        """The state that training begins with."""
        kernel_EC = None
        if isinstance(self.network.head, heads.Prompted):
            kernel_EC = zero_shot.kernel(self.base, self.network.head, self.cfg.labels.names, self.mesh)
        make = jax.jit(lambda *parts: init_state(self.cfg, self.network, *parts), out_shardings=layout)
        return make(self.read(self.start), fixed, kernel_EC)

    def _init_tower(self):
        layout = sharding.shardings(self.mesh, self.tower)
        return jax.jit(lambda: _init_tower(self.cfg, self.network), out_shardings=layout)()


def set_up(cfg, base: Base, mesh: Mesh | None = None) -> Setup:
    """A `Classify` on a checkpoint; no array is read.

    Raises:
        ValueError: the checkpoint, the data and the config do not fit; says what does not.
    """
    cfg = resolved(cfg, base)
    mesh = sharding.make_mesh(cfg.mesh) if mesh is None else mesh
    sharding.check_batch(mesh, cfg.data.batch_size)
    if cfg.tower.modality == "image":
        pipeline.check_size(cfg.data, cfg.preprocess.size)
    network = Network.of(cfg)
    with jax.set_mesh(mesh):
        shapes = shapes_of(cfg, network)
    there = {network.modality: base.shapes()[network.modality]}
    plan = adapt.plan(cfg.tower.adapt, there, shapes.tower)
    return Setup(cfg=cfg, base=base, mesh=mesh, network=network, plan=plan, **shapes._asdict())


def resolved(cfg, base: Base):
    """The config with all that it takes from the checkpoint and from the training data, which is prepared.

    Raises:
        ValueError: the checkpoint has no such tower, or prepares pictures otherwise; the head has another
            number of classes than the data.
    """
    tower = cfg.tower
    module = tower.module or base.tower(tower.modality)
    base.tower(tower.modality)
    tokenizer = tower.tokenizer
    if tower.modality == "text":
        tokenizer = tokenizer or base.config.tokenizer
    there = base.config.preprocess
    preprocess = cfg.preprocess or there
    if preprocess != dataclasses.replace(there, size=preprocess.size):
        raise ValueError(
            f"preprocess={preprocess} differs from the checkpoint's {there} in more than its size; leave it "
            "out, or change the size alone"
        )
    labels = cfg.labels.resolved(cfg.data.train)
    if cfg.head.classes not in (0, len(labels.names)):
        raise ValueError(
            f"head.classes={cfg.head.classes}, but there are {len(labels.names)} classes "
            f"({', '.join(labels.names[:8])}); leave it 0"
        )
    return dataclasses.replace(
        cfg,
        init_from=base.name,
        tower=dataclasses.replace(tower, module=module, tokenizer=tokenizer),
        head=cfg.head.clone(classes=len(labels.names)),
        labels=labels,
        preprocess=preprocess,
    )


def shapes_of(cfg, network: Network) -> Shapes:
    """Of a resolved config.

    Raises:
        ValueError: a pattern of the optimizer or of what is tuned names nothing.
    """
    tower = jax.eval_shape(lambda: _init_tower(cfg, network))
    start, fixed = network.tune.start(tower), network.tune.fixed(tower)
    state = jax.eval_shape(lambda *parts: init_state(cfg, network, *parts), start, fixed)
    return Shapes(tower, start, fixed, state)


def _init_tower(cfg, network: Network):
    key = jax.random.fold_in(jax.random.key(cfg.seed), 1)
    return {network.modality: network.tower.init(key, network.examples(1))["params"]}
