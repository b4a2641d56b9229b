"""What is known of a contrastive finetune before its first array, and the arrays that it begins with."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from mmjax import sharding
from mmjax.contrastive import modalities, running
from mmjax.contrastive.step import First, first, init_tower, make_step, state_of
from mmjax.finetune import inherited
from mmjax.finetune.adapt import Adapt
from mmjax.finetune.base import Base
from mmjax.finetune.pruned import keeping_zeros
from mmjax.finetune.teacher import Teacher
from mmjax.finetune.tuned import Tuned
from mmjax.finetune.weights import NEW, Weights, weights_of

_OBJECTIVE = "objective"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """A contrastive finetune that can be run."""

    cfg: Any  # a resolved `Contrast`
    mesh: Mesh
    tuned: Tuned
    weights: Weights
    teacher: Teacher | None
    vocabulary: Base | None  # the run whose tokenizer is copied; None where one is made
    params: Any  # shapes of all parameters
    fixed: Any  # shapes of those that training leaves as they are
    state: Any  # shapes of the train state
    locked: tuple[str, ...]  # modalities of whose tower nothing is trained

    def whole(self, trained, fixed, *_):
        """All parameters."""
        return {**self.tuned.merged(trained, fixed), _OBJECTIVE: trained[_OBJECTIVE]}

    @property
    def beside(self) -> Callable | None:
        """What the step adds to a batch (`contrastive.step.make_step`)."""
        if self.teacher is None:
            return None
        return lambda batch, keys, _, params: self.teacher(self.cfg, params, batch, keys)

    def step(self) -> Callable:
        """`(state, batch, *fixed) -> (state, metrics)`, pure: one step of training on one global batch."""
        step = make_step(
            self.cfg,
            whole=self.whole,
            locked=self.locked,
            beside=self.beside,
            towers=lambda trained, fixed, *_: self.tuned.towers(trained, fixed),
        )
        return keeping_zeros(step, self.tuned.tunes)

    def read_fixed(self) -> tuple[Any, ...]:
        """What `whole` and `beside` are given beside what is trained: the teacher's parameters come last."""
        fixed = self.weights.read(self.fixed)
        return (fixed,) if self.teacher is None else (fixed, self.teacher.read(self.mesh))

    def first_state(self, layout, fixed, *_):
        """The state that training begins with."""
        said = _said(self.cfg, self.teacher)

        def make(start, fixed):
            return _state(self.cfg, self.tuned, first(self.cfg, self.cfg.data.batch_size, said), start, fixed)

        return jax.jit(make, out_shardings=layout)(self.weights.read(_start(self.tuned, self.params)), fixed)


def set_up(given) -> Setup:
    """A `Contrast` on its checkpoint and its teacher; no array is read but the teacher's scale.

    Raises:
        ValueError: these, the data and the config do not fit; says what does not.
    """
    runs = inherited.find(given)
    cfg = inherited.resolved(given, runs)
    running.check(cfg)
    mesh = sharding.make_mesh(cfg.mesh)
    teacher = None if runs.teacher is None else Teacher.of(runs.teacher, cfg.modules)
    begun = running.shapes_of(cfg, mesh, _said(cfg, teacher))
    weights, tuned = _weights(cfg, runs.base, begun.params, mesh, _said(cfg, teacher)), tuned_of(cfg)
    start, fixed = _start(tuned, begun.params), tuned.fixed(_towers(begun.params))
    state = jax.eval_shape(lambda *parts: _state(cfg, tuned, *parts), begun, start, fixed)
    learning = tuned.learning(cfg.optim, state["params"])
    locked = tuple(name for name in cfg.towers if name not in learning)
    running.check_training(cfg, mesh, {k: x for k, x in begun.params.items() if k not in locked})
    _check_statistics(cfg, begun.params, learning, sharding.batch_devices(mesh))
    return Setup(
        cfg=cfg,
        mesh=mesh,
        tuned=tuned,
        weights=weights,
        teacher=teacher,
        vocabulary=inherited.vocabulary(given, cfg, runs),
        params=begun.params,
        fixed=fixed,
        state=state,
        locked=locked,
    )


def _check_statistics(cfg, params, learning: set[str], rows: int):
    """Raises ValueError where running statistics would change of which checkpoints hold nothing."""
    in_part = {name: params[name] for name in learning if not cfg.towers[name].tune.whole}
    for name in modalities.normalised_by_batch(cfg, in_part, rows, jax.random.key(0)):
        raise ValueError(
            f"towers.{name}.tune={type(cfg.towers[name].tune).__name__} trains a part of a tower that "
            "normalises by statistics of the batch, which it would not keep; use Full, or a tower without "
            "batch norm"
        )


def tuned_of(cfg) -> Tuned:
    return Tuned(tunes={name: tower.tune for name, tower in cfg.towers.items()}, others=(_OBJECTIVE,))


def read_fixed(cfg, mesh: Mesh):
    """Parameters that a resolved config does not train, for a run whose checkpoints lack them.

    Raises:
        ValueError: the checkpoint that it began with is gone.
    """
    shapes = jax.eval_shape(lambda: {name: init_tower(cfg, name) for name in cfg.towers})
    fixed = tuned_of(cfg).fixed(shapes)
    return _weights(cfg, inherited.find_base(cfg), shapes, mesh).read(fixed) if fixed else {}


def read_first(cfg, mesh: Mesh, objective):
    """All parameters that a finished finetune's towers began with, and those of its objective where it went
    on with the checkpoint's.

    Args:
        cfg: its config, every tower of which began with the checkpoint's.
        objective: its parameters.

    Raises:
        ValueError: the checkpoint that it began with is gone.
    """
    towers = jax.eval_shape(lambda: {name: init_tower(cfg, name) for name in cfg.towers})
    shapes = {**towers, _OBJECTIVE: jax.eval_shape(lambda: objective)}
    base = inherited.find_base(cfg)
    wanted = shapes if _goes_on(cfg, base, shapes) else towers
    return _weights(cfg, base, shapes, mesh).read(wanted)


def _weights(cfg, base: Base | None, shapes: Mapping[str, Any], mesh: Mesh, said=None) -> Weights:
    def init(name):
        if name == _OBJECTIVE:
            return first(cfg, cfg.data.batch_size, said).params[name]
        return init_tower(cfg, name)

    adapts = {name: NEW if inherited.is_new(cfg, name) else tower.adapt for name, tower in cfg.towers.items()}
    adapts[_OBJECTIVE] = Adapt() if _goes_on(cfg, base, shapes) else NEW
    new = {name: tower.tune.new for name, tower in cfg.towers.items()}
    return weights_of(base, adapts, shapes, init, mesh, new=new)


def _goes_on(cfg, base: Base | None, shapes: Mapping[str, Any]) -> bool:
    """Whether the objective is of the checkpoint's kind, and has the parameters that this has."""
    there = {} if base is None else base.shapes().get(_OBJECTIVE, {})
    if not there or type(base.objective()) is not type(cfg.objective):
        return False
    return jax.tree.map(lambda x: x.shape, there) == jax.tree.map(lambda x: x.shape, shapes.get(_OBJECTIVE))


def _said(cfg, teacher: Teacher | None):
    """What a teacher adds to a batch."""
    return None if teacher is None else teacher.said(cfg)


def _towers(params):
    return {name: x for name, x in params.items() if name != _OBJECTIVE}


def _start(tuned: Tuned, params):
    """The part of all parameters that training begins with."""
    return {**tuned.start(_towers(params)), _OBJECTIVE: params[_OBJECTIVE]}


def _state(cfg, tuned: Tuned, begun: First, start, fixed):
    key = jax.random.fold_in(jax.random.key(cfg.seed), 1)
    trained = tuned.begin(key, _towers(start), fixed)
    begun = begun._replace(params={**trained, _OBJECTIVE: start[_OBJECTIVE]})
    return state_of(cfg, begun, towers=tuned.towers(trained, fixed))
