"""Contrastive pretraining: the config of a run, and the run itself."""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
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
from mmjax.pretrain import accumulation, modalities
from mmjax.pretrain.loss import loss
from mmjax.pretrain.step import init_state, make_step
from mmjax.sharding import MeshShape
from mmjax.training import Training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Everything that a pretraining run is."""

    towers: dict[str, nn.Module]  # "image", "text", and of further modalities by the names of data.fields
    objective: nn.Module
    data: Data
    colour: tuple[Callable, ...] = ()  # augmentations on the device, in order
    preprocess: Preprocess | None = None  # of pictures when evaluating; its mean and std when training, too
    tokenizer: TokenizerConfig | None = None
    steps: int
    optim: Optim = Optim()
    accumulate: int = 1  # micro-batches that a batch is worked off in: less memory, the same gradient
    mesh: MeshShape = MeshShape()
    checkpoint: Checkpointing = Checkpointing()
    evals: dict[str, Evaluator] = dataclasses.field(default_factory=dict)
    log_every: int = 50  # steps between lines of metrics.jsonl
    seed: int = 0

    def __post_init__(self):
        modalities.check(self)
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

    def load(
        self,
        workdir: pathlib.Path,
        checkpoints: pathlib.Path,
        step: int,
        *,
        average: bool,
        read: Callable = restore_params,
    ) -> Model:
        """What `mmjax.load` calls: `load_model` of this config."""
        return load_model(self, workdir, checkpoints, step, average=average, read=read)


def run(cfg: Pretrain, directory: pathlib.Path):
    """Trains, evaluates and reports in `directory`; goes on from its last checkpoint where there is one."""
    mesh = sharding.make_mesh(cfg.mesh)
    # A config that cannot be run claims no directory.
    sharding.check_batch(mesh, cfg.data.batch_size)
    if "image" in cfg.towers:
        pipeline.check_size(cfg.data, cfg.preprocess.size)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(lambda: init_state(cfg, cfg.data.batch_size))
    if "text" in cfg.towers:
        check_vocab(shapes["params"]["text"], cfg.tokenizer.vocab)
        check_marks(cfg.towers["text"], cfg.tokenizer)
    modalities.check_statistics(cfg, shapes["params"], sharding.batch_devices(mesh))
    accumulation.check(cfg, mesh, shapes["params"])
    training.begin(cfg, directory)
    tokenizer = None
    if cfg.tokenizer is not None:
        tokenizer = vocabulary.of_run(directory, cfg.tokenizer, cfg.data, cfg.seed)
    model = make_model(cfg, tokenizer, mesh, params=None)
    batch = _batch_shapes(cfg, mesh)

    def first(layout):
        return jax.jit(lambda: init_state(cfg, cfg.data.batch_size), out_shardings=layout)()

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
    cfg: Pretrain,
    workdir: pathlib.Path,
    checkpoints: pathlib.Path,
    step: int,
    *,
    average: bool,
    read: Callable = restore_params,
) -> Model:
    """The model of a run with the weights of a step in its folder `checkpoints`, or their average.

    `read` is called as `restore_params` is, and may give parameters of another kind.
    """
    tokenizer = None if cfg.tokenizer is None else tokenizers.load(workdir, cfg.tokenizer)
    mesh = sharding.make_mesh(MeshShape())
    shapes = jax.eval_shape(lambda: init_state(cfg, cfg.data.batch_size)["params"])
    wanted = sharding.with_layout(shapes, sharding.shardings(mesh, shapes))
    item = "ema" if average and cfg.optim.ema else "params"
    return make_model(cfg, tokenizer, mesh, read(checkpoints, wanted, step, item=item))


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
    """What one global batch looks like; the channels of pictures are those of the training data."""
    channels = pipeline.channels(cfg.data) if "image" in cfg.towers else 3
    shapes = modalities.batch_shapes(cfg, cfg.data.batch_size, channels)
    return sharding.with_layout(shapes, dict.fromkeys(shapes, sharding.batch_sharding(mesh)))


def _batches(cfg: Pretrain, tokenizer: Tokenizer, start: int):
    return pipeline.batches(
        cfg.data,
        tokenizer,
        modalities=cfg.towers,
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
    inputs = jax.eval_shape(lambda b: modalities.inputs(cfg, b, jax.random.key(0)), batch)
    times = dict.fromkeys(cfg.towers, 1) | {"text": 1 + cfg.data.hard_texts}
    still = sum(
        times[name] * flops.count(tower.apply, {"params": params[name]}, inputs[name])
        for name, tower in cfg.towers.items()
        if all(jax.tree.leaves(frozen[name]))
    )
    return 3 * forward - 2 * still
