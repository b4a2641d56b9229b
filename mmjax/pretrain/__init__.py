"""Contrastive pretraining: the config of a run, and the run itself.

Letters: B batch, H W C image, S positions, E embedding.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from mmjax import flops, optim, own_data, sharding, training, vocabulary
from mmjax.checkpoint import Checkpointing, restore_params
from mmjax.data import pipeline, tokenizers
from mmjax.data.geometry import Preprocess
from mmjax.data.pipeline import Data
from mmjax.data.tokenizers import Tokenizer, TokenizerConfig
from mmjax.evals import Evaluator
from mmjax.model import Model, check_marks, check_vocab, encoders
from mmjax.optim import Optim
from mmjax.pretrain import accumulation
from mmjax.pretrain.loss import loss
from mmjax.pretrain.step import init_state, make_step
from mmjax.sharding import MeshShape
from mmjax.training import Training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Everything that a pretraining run is."""

    towers: dict[str, nn.Module]  # "image" and "text"
    objective: nn.Module
    data: Data
    colour: tuple[Callable, ...] = ()  # augmentations on the device, in order
    preprocess: Preprocess  # of pictures when evaluating; its mean and std when training, too
    tokenizer: TokenizerConfig
    steps: int
    optim: Optim = Optim()
    accumulate: int = 1  # micro-batches that a batch is worked off in: less memory, the same gradient
    mesh: MeshShape = MeshShape()
    checkpoint: Checkpointing = Checkpointing()
    evals: dict[str, Evaluator] = dataclasses.field(default_factory=dict)
    log_every: int = 50  # steps between lines of metrics.jsonl
    seed: int = 0

    def __post_init__(self):
        if set(self.towers) != {"image", "text"}:
            raise ValueError(f"towers={sorted(self.towers)}: give one tower each for 'image' and 'text'")
        if self.accumulate < 1 or self.data.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate={self.accumulate} does not divide data.batch_size={self.data.batch_size}; use "
                "one of its divisors"
            )
        training.check(self)
        optim.learning_rate(self.optim, self.steps)

    def run(self, directory: pathlib.Path):
        """What `mmjax.main` calls: `run` of this config."""
        run(self, directory)

    def with_data(self, data: str) -> "Pretrain":
        """This config on other data, a folder or `tfds:NAME`: what `mmjax.main --data` calls."""
        return own_data.with_data(self, data)

    def changes(self, after: "Pretrain") -> str:
        """One line for people: what `with_data` changed, beside the data."""
        return own_data.changes(self, after)

    def load(self, workdir: pathlib.Path, checkpoints: pathlib.Path, step: int, *, average: bool) -> Model:
        """What `mmjax.load` calls: `load_model` of this config."""
        return load_model(self, workdir, checkpoints, step, average=average)


def run(cfg: Pretrain, directory: pathlib.Path):
    """Trains, evaluates and reports in `directory`; goes on from its last checkpoint where there is one."""
    mesh = sharding.make_mesh(cfg.mesh)
    # A config that cannot be run claims no directory.
    sharding.check_batch(mesh, cfg.data.batch_size)
    pipeline.check_size(cfg.data, cfg.preprocess.size)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(lambda: init_state(cfg, sharding.batch_devices(mesh)))
    check_vocab(shapes["params"]["text"], cfg.tokenizer.vocab)
    check_marks(cfg.towers["text"], cfg.tokenizer)
    accumulation.check(cfg, mesh, shapes["params"])
    training.begin(cfg, directory)
    tokenizer = vocabulary.of_run(directory, cfg.tokenizer, cfg.data, cfg.seed)
    model = make_model(cfg, tokenizer, mesh, params=None)
    batch = _batch_shapes(cfg, mesh)

    def first(layout):
        return jax.jit(lambda: init_state(cfg, sharding.batch_devices(mesh)), out_shardings=layout)()

    def embed(state):
        return dataclasses.replace(model, params=state.get("ema", state["params"])).embed

    training.train(
        cfg,
        directory,
        Training(
            mesh=mesh,
            shapes=shapes,
            first=first,
            step=make_step(cfg),
            batch=batch,
            batches=lambda start: _batches(cfg, tokenizer, start),
            flops=lambda: model_flops(cfg, shapes["params"], batch),
            embed=embed,
        ),
    )


def load_model(
    cfg: Pretrain, workdir: pathlib.Path, checkpoints: pathlib.Path, step: int, *, average: bool
) -> Model:
    """The model of a run with the weights of a step in its folder `checkpoints`, or their average."""
    tokenizer = tokenizers.load(workdir, cfg.tokenizer)
    mesh = sharding.make_mesh(MeshShape())
    shapes = jax.eval_shape(lambda: init_state(cfg, sharding.batch_devices(mesh))["params"])
    wanted = sharding.with_layout(shapes, sharding.shardings(mesh, shapes))
    item = "ema" if average and cfg.optim.ema else "params"
    return make_model(cfg, tokenizer, mesh, restore_params(checkpoints, wanted, step, item=item))


def make_model(cfg: Pretrain, tokenizer: Tokenizer, mesh: Mesh, params) -> Model:
    return Model(
        objective=cfg.objective,
        preprocessing=cfg.preprocess,
        tokenizer=tokenizer,
        params=params,
        encoders=encoders(cfg.towers, cfg.preprocess, mesh),
        mesh=mesh,
        config=cfg,
    )


def _batch_shapes(cfg: Pretrain, mesh: Mesh):
    """What one global batch looks like, from the first example of the training data."""
    size = cfg.preprocess.size
    kinds = {
        "image": ((size, size, pipeline.channels(cfg.data)), jnp.uint8),
        "text": ((cfg.tokenizer.length,), jnp.int32),
        "id": ((), jnp.int32),
    }
    return training.batch_shapes(cfg, mesh, kinds)


def _batches(cfg: Pretrain, tokenizer: Tokenizer, start: int):
    return pipeline.batches(
        cfg.data,
        tokenizer,
        start=start * cfg.data.batch_size,
        process=jax.process_index(),
        processes=jax.process_count(),
    )


def model_flops(cfg: Pretrain, params, batch) -> int:
    """Operations of a step: forward, and twice as many backward for all but towers that are wholly frozen.

    What `remat` computes again does not count (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
    """
    forward = flops.count(lambda p, b: loss(cfg, p, b, jax.random.key(0))[0], params, batch)
    frozen = optim.frozen(cfg.optim, params)
    rows, size, size, _ = batch["image"].shape
    inputs = {"image": jax.ShapeDtypeStruct((rows, size, size, 3), jnp.float32), "text": batch["text"]}
    still = sum(
        flops.count(tower.apply, {"params": params[name]}, inputs[name])
        for name, tower in cfg.towers.items()
        if all(jax.tree.leaves(frozen[name]))
    )
    return 3 * forward - 2 * still
