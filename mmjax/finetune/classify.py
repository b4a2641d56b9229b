"""Classification with towers of a checkpoint: the config of a finetune, and the finetune itself."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from mmjax import config, flops, metrics, own_data, sharding, training, workdir
from mmjax.checkpoint import Checkpointing, restore_params
from mmjax.data import pipeline, tokenizers
from mmjax.data.geometry import Preprocess
from mmjax.data.pipeline import Data
from mmjax.data.tokenizers import Tokenizer, TokenizerConfig
from mmjax.evals import Evaluator
from mmjax.evaluation import check_needs
from mmjax.finetune import base
from mmjax.finetune.backbone import Backbone
from mmjax.finetune.classifier import Classifier, functions
from mmjax.finetune.fusion import Only
from mmjax.finetune.matching import MODALITIES, Matching
from mmjax.finetune.network import FUSION, HEAD, Network
from mmjax.finetune.pruned import check_steps
from mmjax.finetune.setup import Setup, Shapes, set_up, shapes_of
from mmjax.finetune.step import learning, make_step, pairings
from mmjax.finetune.tasks import Task
from mmjax.optim import Optim
from mmjax.sharding import MeshShape
from mmjax.training import Training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classify:
    """Everything that a finetune for classification is.

    What is None, or empty, is taken from the checkpoint or the training data; the run's own `config.json` has
    it all, so that its workdir is read without the other one.
    """

    init_from: str  # the workdir of a run, or workdir@step, or workdir@best
    towers: dict[str, Backbone] = dataclasses.field(default_factory=lambda: {"image": Backbone()})
    fusion: nn.Module = Only()  # of what several towers say of an example
    tasks: dict[str, Task | Matching] = dataclasses.field(default_factory=lambda: {"class": Task()})
    mixup: float = 0.0  # parameter of the beta distribution of mixed pictures' shares; 0 mixes none
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
        check_steps(self.towers, self.steps)
        if not self.towers or not self.tasks:
            raise ValueError(f"towers={[*self.towers]} and tasks={[*self.tasks]}: give one or more of each")
        known = {"image", "text", *self.data.fields} - {HEAD, FUSION}
        if unknown := sorted(set(self.towers) - known):
            raise ValueError(
                f"towers has {unknown}, which no example has; use {', '.join(sorted(known))}, or say in "
                "data.fields what array it is"
            )
        matching = [name for name, task in self.tasks.items() if isinstance(task, Matching)]
        if matching and set(self.towers) != set(MODALITIES):
            raise ValueError(
                f"tasks.{matching[0]} matches pictures and texts, but towers={sorted(self.towers)}; give the "
                f"towers {' and '.join(MODALITIES)}"
            )
        if self.data.may_lack or self.data.hard_texts:
            raise ValueError(
                f"data.may_lack={self.data.may_lack} and data.hard_texts={self.data.hard_texts} are for "
                "pretraining; every example of a finetune has all that its towers encode"
            )
        if not 0 <= self.mixup < math.inf:
            raise ValueError(f"mixup={self.mixup} must be 0 or more")
        if self.mixup and set(self.towers) != {"image"}:
            raise ValueError(f"mixup={self.mixup} mixes pictures only; use 0 for {[*self.towers]}")

    @property
    def tokenizer(self) -> TokenizerConfig | None:
        """Of texts, where there is a tower for them."""
        return self.towers["text"].tokenizer if "text" in self.towers else None

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
        self,
        workdir: pathlib.Path,
        checkpoints: pathlib.Path,
        step: int,
        *,
        average: bool,
        read: Callable = restore_params,
    ) -> Classifier:
        """What `mmjax.load` calls: `load_model` of this config."""
        return load_model(self, workdir, checkpoints, step, average=average, read=read)


def run(cfg: Classify, directory: pathlib.Path):
    """Finetunes, evaluates and reports in `directory`; goes on from its last checkpoint if there is one."""
    # The classes are part of the config that claims the directory, where the log will be kept.
    metrics.start_log(None)
    check_needs(cfg.evals, [*cfg.towers, *(f"classes/{task}" for task in cfg.tasks)])
    training.prepare(cfg)
    setup = set_up(cfg, base.find(cfg.init_from, config.packages(cfg)))
    cfg, mesh = setup.cfg, setup.mesh
    weights = {name: task.class_weights(cfg.data.train) for name, task in cfg.tasks.items()}
    training.begin(cfg, directory)
    setup.weights.report()
    tokenizer = _tokenizer(setup, directory)
    made = functions(setup.network, _labels(cfg), mesh)

    def embed(state, fixed):
        params = state.get("ema", state["params"])
        return _classifier(cfg, setup.network, made, tokenizer, mesh, params, fixed).embed

    training.train(
        cfg,
        directory,
        Training(
            mesh=mesh,
            shapes=setup.shapes.state,
            fixed=lambda: (setup.read(setup.shapes.fixed),),
            first=setup.first_state,
            step=make_step(cfg, setup.network, weights),
            batch=_batch_shapes(cfg, setup.network, mesh),
            batches=lambda start: _batches(cfg, tokenizer, start),
            flops=lambda: model_flops(cfg, setup.network, setup.shapes),
            embed=embed,
        ),
    )


def load_model(
    cfg: Classify,
    directory: pathlib.Path,
    checkpoints: pathlib.Path,
    step: int,
    *,
    average: bool,
    read: Callable = restore_params,
) -> Classifier:
    """The classifier of a run with the weights of a step in its folder `checkpoints`, or their average.

    `read` is called as `restore_params` is, and may give parameters of another kind.

    Raises:
        ValueError: the run keeps only what was trained, and the checkpoint that it began with is gone.
    """
    mesh = sharding.make_mesh(MeshShape())
    network = Network.of(cfg)
    parts = shapes_of(cfg, network)

    def laid_out(shapes):
        return sharding.with_layout(shapes, sharding.shardings(mesh, shapes))

    item = "ema" if average and cfg.optim.ema else "params"
    params = read(checkpoints, laid_out(parts.state["params"]), step, item=item)
    fixed = {}
    if parts.fixed:
        setup = set_up(cfg, base.find(cfg.init_from, config.packages(cfg)), mesh)
        fixed = setup.read(parts.fixed)
    tokenizer = tokenizers.load(directory, cfg.tokenizer) if "text" in cfg.towers else None
    made = functions(network, _labels(cfg), mesh)
    return _classifier(cfg, network, made, tokenizer, mesh, params, fixed)


def first_model(cfg: Classify, mesh: Mesh | None = None) -> Classifier:
    """The classifier that a finetune, whose data is prepared, begins with; None: on the mesh of the config.

    Raises:
        ValueError: the checkpoint, the data and the config do not fit; says what does not.
    """
    setup = set_up(cfg, base.find(cfg.init_from, config.packages(cfg)), mesh)
    cfg, mesh = setup.cfg, setup.mesh
    with jax.set_mesh(mesh):
        fixed = setup.read(setup.shapes.fixed)
        params = setup.first_state(sharding.shardings(mesh, setup.shapes.state), fixed)["params"]
    tokenizer = setup.tokenizer()
    made = functions(setup.network, _labels(cfg), mesh)
    return _classifier(cfg, setup.network, made, tokenizer, mesh, params, fixed)


def _classifier(cfg, network, made, tokenizer, mesh: Mesh, params, fixed) -> Classifier:
    return Classifier(
        network=network,
        labels=_labels(cfg),
        params=params,
        fixed=fixed,
        functions=made,
        tokenizer=tokenizer,
        mesh=mesh,
        config=cfg,
    )


def _labels(cfg: Classify):
    return {name: task.labels for name, task in cfg.tasks.items()}


def _tokenizer(setup: Setup, directory: pathlib.Path) -> Tokenizer | None:
    """That of texts, copied into the run's directory."""
    tokenizer, path = setup.tokenizer(), directory / tokenizers.FILE
    if tokenizer is not None and jax.process_index() == 0 and not path.is_file():
        workdir.write(path, tokenizer.model)
    return tokenizer


def _batch_shapes(cfg: Classify, network: Network, mesh: Mesh):
    kinds = {name: (field.shape, field.dtype) for name, field in cfg.data.fields.items()}
    kinds |= network.rows | {"id": ((), "int32")}
    if "image" in cfg.towers:
        size = cfg.preprocess.size
        kinds["image"] = (size, size, pipeline.channels(cfg.data)), "uint8"
    kinds |= {f"label/{name}": ((len(task.labels.names),), "uint8") for name, task in cfg.tasks.items()}
    return training.batch_shapes(
        cfg, mesh, {name: (shape, jnp.dtype(d)) for name, (shape, d) in kinds.items()}
    )


def _batches(cfg: Classify, tokenizer: Tokenizer | None, start: int):
    return pipeline.batches(
        cfg.data,
        tokenizer,
        modalities=cfg.towers,
        labels={name: task.labels.reader(cfg.data.train) for name, task in cfg.tasks.items()},
        start=start * cfg.data.batch_size,
        process=jax.process_index(),
        processes=jax.process_count(),
    )


def model_flops(cfg: Classify, network: Network, shapes: Shapes) -> int:
    """Operations of a step: forward, and twice as many backward for all but towers that are not trained, and
    the choice of wrong pairs."""
    trained, inputs = shapes.state["params"], network.examples(cfg.data.batch_size)
    params = jax.eval_shape(network.params, trained, shapes.fixed)
    learns = learning(cfg, network, trained)
    pair = pairings(cfg, jnp.zeros(cfg.data.batch_size, jnp.int32))
    key = jax.random.key(0)

    def forward(params, inputs):
        return network(params, inputs, key=key, learning=learns, pair=pair)

    def encoded(params, inputs, names):
        return {name: network.encode(name, params, inputs[name]) for name in names}

    said = jax.eval_shape(functools.partial(encoded, names=network.towers), params, inputs)
    still = functools.partial(encoded, names=[name for name in network.towers if name not in learns])
    once = flops.count(still, params, inputs) + sum(flops.count(draw, key, said) for draw in pair.values())
    return 3 * flops.count(forward, params, inputs) - 2 * once
