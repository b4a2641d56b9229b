"""Contrastive pretraining: the config of a run, and the run itself."""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
from flax import linen as nn

from mmjax import optim, own_data, sharding, training, vocabulary
from mmjax.checkpoint import Checkpointing, restore_params
from mmjax.contrastive import running
from mmjax.contrastive.step import init_state, make_step, state_of
from mmjax.data import tokenizers
from mmjax.data.geometry import Preprocess
from mmjax.data.pipeline import Data
from mmjax.data.tokenizers import TokenizerConfig
from mmjax.evals import Evaluator
from mmjax.evaluation import check_needs
from mmjax.model import Model
from mmjax.optim import Optim
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
        running.check(self)
        training.check(self)
        optim.learning_rate(self.optim, self.steps)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The towers, by modality."""
        return self.towers

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
    first = running.shapes_of(cfg, mesh)
    running.check_training(cfg, mesh, first.params)
    shapes = jax.eval_shape(lambda first: state_of(cfg, first), first)
    model = running.make_model(cfg, None, mesh, params=None)
    check_needs(cfg.evals, model.embed)
    training.begin(cfg, directory)
    if cfg.tokenizer is not None:
        tokenizer = vocabulary.of_run(directory, cfg.tokenizer, cfg.data, cfg.seed)
        model = dataclasses.replace(model, tokenizer=tokenizer)
    batch = running.batch_shapes(cfg, mesh)

    def make(layout):
        return jax.jit(lambda: init_state(cfg, cfg.data.batch_size), out_shardings=layout)()

    def embed(state):
        return dataclasses.replace(model, params=state.get("ema", state["params"])).embed

    training.train(
        cfg,
        directory,
        Training(
            mesh=mesh,
            shapes=shapes,
            first=make,
            step=make_step(cfg),
            batch=batch,
            batches=lambda start: running.batches(cfg, model.tokenizer, start),
            flops=lambda: model_flops(cfg, first.params, batch),
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
    return running.make_model(cfg, tokenizer, mesh, read(checkpoints, wanted, step, item=item))


def model_flops(cfg: Pretrain, params, batch) -> int:
    """Operations of a step; towers that are wholly frozen learn nothing."""
    frozen = optim.frozen(cfg.optim, params)
    still = [name for name in cfg.towers if all(jax.tree.leaves(frozen[name]))]
    return running.model_flops(cfg, params, batch, still=still)
