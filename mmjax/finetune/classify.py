"""Classification with one tower of a checkpoint: the config of a finetune, and the finetune itself."""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from mmjax import config, flops, metrics, own_data, sharding, training, workdir
from mmjax.checkpoint import Checkpointing, restore_params
from mmjax.data import labels, pipeline, tokenizers
from mmjax.data.geometry import Preprocess
from mmjax.data.labels import Labels, OneClass
from mmjax.data.pipeline import Data
from mmjax.data.tokenizers import Tokenizer, TokenizerConfig
from mmjax.evals import Evaluator
from mmjax.finetune import adapt, base, heads
from mmjax.finetune.adapt import Adapt
from mmjax.finetune.classifier import Classifier, functions
from mmjax.finetune.loss import Regular, class_weights
from mmjax.finetune.network import Network
from mmjax.finetune.setup import Setup, set_up, shapes_of
from mmjax.finetune.step import learns, make_step
from mmjax.finetune.tune import Full, Tune
from mmjax.optim import Optim
from mmjax.sharding import MeshShape
from mmjax.training import Training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """The tower of a checkpoint, and what of it is trained."""

    modality: str = "image"
    tune: Tune = Full()
    frozen_steps: int = 0  # first steps that train the head alone
    adapt: Adapt = Adapt()  # what may differ from the checkpoint
    module: nn.Module | None = None  # None: as the checkpoint's run has it
    tokenizer: TokenizerConfig | None = None  # of texts; None: as the checkpoint's run has it

    def __post_init__(self):
        if self.modality not in ("image", "text"):
            raise ValueError(f"modality={self.modality!r} is not classified yet; use 'image' or 'text'")
        if self.frozen_steps < 0:
            raise ValueError(f"frozen_steps={self.frozen_steps} must be 0 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify:
    """Everything that a finetune for classification is.

    What is None, or empty, is taken from the checkpoint or the training data; the run's own `config.json` has
    it all, so that its workdir is read without the other one.
    """

    init_from: str  # the workdir of a run, or workdir@step, or workdir@best
    tower: Backbone = Backbone()
    head: nn.Module = heads.Linear()
    labels: Labels = OneClass()
    regular: Regular = Regular()
    data: Data
    colour: tuple[Callable, ...] = ()  # augmentations on the device, in order
    preprocess: Preprocess | None = None  # only its size may be another than the checkpoint's
    steps: int
    optim: Optim = Optim()
    mesh: MeshShape = MeshShape()
    checkpoint: Checkpointing = Checkpointing()
    evals: dict[str, Evaluator] = dataclasses.field(default_factory=dict)
    log_every: int = 50  # steps between lines of metrics.jsonl
    seed: int = 0

    def __post_init__(self):
        training.check(self)
        if self.regular.mixup and self.tower.modality != "image":
            raise ValueError(f"mixup={self.regular.mixup} mixes pictures; set regular.mixup=0 for texts")

    @property
    def towers(self) -> dict[str, nn.Module]:
        """What a finetune that starts from this one may ask for."""
        return {self.tower.modality: self.tower.module}

    @property
    def tokenizer(self) -> TokenizerConfig:
        return self.tower.tokenizer

    def run(self, directory: pathlib.Path):
        """What `mmjax.main` calls: `run` of this config."""
        run(self, directory)

    def with_data(self, data: str) -> "Classify":
        """This config on a folder of classes, or `tfds:NAME`: what `mmjax.main --data` calls."""
        return own_data.with_classes(self, data)

    def changes(self, after: "Classify") -> str:
        """One line for people: what `with_data` changed, beside the data."""
        return own_data.changes_of_classes(self, after)

    def load(
        self, workdir: pathlib.Path, checkpoints: pathlib.Path, step: int, *, average: bool
    ) -> Classifier:
        """What `mmjax.load` calls: `load_model` of this config."""
        return load_model(self, workdir, checkpoints, step, average=average)


def run(cfg: Classify, directory: pathlib.Path):
    """Finetunes, evaluates and reports in `directory`; goes on from its last checkpoint if there is one."""
    # The classes are part of the config that claims the directory, where the log will be kept.
    metrics.start_log(None)
    training.prepare(cfg)
    setup = set_up(cfg, base.find(cfg.init_from, config.packages(cfg)))
    cfg, mesh = setup.cfg, setup.mesh
    weight_C = class_weights(cfg.regular, _counted(cfg))
    training.begin(cfg, directory)
    adapt.report(setup.base, setup.plan)
    tokenizer = _tokenizer(setup, directory)
    read = cfg.labels.reader(cfg.data.train)
    made = functions(setup.network, cfg.labels.several, mesh)

    def embed(state, fixed):
        params = state.get("ema", state["params"])
        return _classifier(cfg, setup.network, made, tokenizer, mesh, params, fixed).embed

    training.train(
        cfg,
        directory,
        Training(
            mesh=mesh,
            shapes=setup.state,
            fixed=lambda: (setup.read(setup.fixed),),
            first=setup.first_state,
            step=make_step(cfg, setup.network, weight_C),
            batch=_batch_shapes(cfg, mesh),
            batches=lambda start: _batches(cfg, read, tokenizer, start),
            flops=lambda: model_flops(setup),
            embed=embed,
        ),
    )


def load_model(
    cfg: Classify, directory: pathlib.Path, checkpoints: pathlib.Path, step: int, *, average: bool
) -> Classifier:
    """The classifier of a run with the weights of a step in its folder `checkpoints`, or their average.

    Raises:
        ValueError: the run keeps only what was trained, and the checkpoint that it began with is gone.
    """
    mesh = sharding.make_mesh(MeshShape())
    network = Network.of(cfg)
    parts = shapes_of(cfg, network)

    def laid_out(shapes):
        return sharding.with_layout(shapes, sharding.shardings(mesh, shapes))

    item = "ema" if average and cfg.optim.ema else "params"
    params = restore_params(checkpoints, laid_out(parts.state["params"]), step, item=item)
    fixed = {}
    if parts.fixed:
        setup = set_up(cfg, base.find(cfg.init_from, config.packages(cfg)), mesh)
        fixed = setup.read(parts.fixed)
    tokenizer = tokenizers.load(directory, cfg.tokenizer) if cfg.tower.modality == "text" else None
    made = functions(network, cfg.labels.several, mesh)
    return _classifier(cfg, network, made, tokenizer, mesh, params, fixed)


def _classifier(cfg, network, made, tokenizer, mesh: Mesh, params, fixed) -> Classifier:
    return Classifier(
        network=network,
        labels=cfg.labels,
        params=params,
        fixed=fixed,
        functions=made,
        tokenizer=tokenizer,
        mesh=mesh,
        config=cfg,
    )


def _counted(cfg: Classify):
    """Training examples by class.

    Raises:
        ValueError: a class has none.
    """
    count_C = labels.counted(cfg.labels, cfg.data.train)
    missing = [name for name, count in zip(cfg.labels.names, count_C, strict=True) if not count]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(count_C)} classes have no training example: {', '.join(missing[:5])}; "
            "add examples, or leave these classes out of labels.names and of the data"
        )
    return count_C


def _tokenizer(setup: Setup, directory: pathlib.Path) -> Tokenizer | None:
    """The checkpoint's, copied into the run's directory, where texts are classified."""
    if setup.cfg.tower.modality != "text":
        return None
    path = directory / tokenizers.FILE
    if jax.process_index() == 0 and not path.is_file():
        workdir.write(path, setup.base.tokenizer().model)
    return setup.base.tokenizer()


def _batch_shapes(cfg: Classify, mesh: Mesh):
    kinds = {"id": ((), jnp.int32), "label": ((len(cfg.labels.names),), jnp.uint8)}
    if cfg.tower.modality == "text":
        kinds["text"] = ((cfg.tokenizer.length,), jnp.int32)
    else:
        size = cfg.preprocess.size
        kinds["image"] = ((size, size, pipeline.channels(cfg.data)), jnp.uint8)
    return training.batch_shapes(cfg, mesh, kinds)


def _batches(cfg: Classify, read: Callable, tokenizer: Tokenizer | None, start: int):
    return pipeline.batches(
        cfg.data,
        tokenizer,
        modalities=(cfg.tower.modality,),
        labels=read,
        start=start * cfg.data.batch_size,
        process=jax.process_index(),
        processes=jax.process_count(),
    )


def model_flops(setup: Setup) -> int:
    """Operations of a step: forward, and twice as many backward for all but a tower that is not trained."""
    network, rows = setup.network, setup.cfg.data.batch_size
    params = {**setup.tower, "head": setup.state["params"]["head"]}
    inputs = network.examples(rows)
    forward = flops.count(network, params, inputs)
    tower = flops.count(network.tower.apply, {"params": params[network.modality]}, inputs)
    return 3 * forward - 2 * tower * (not learns(setup.cfg, setup.state["params"]))
