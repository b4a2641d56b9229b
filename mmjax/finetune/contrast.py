"""Contrastive finetuning: the config of such a run, and the run itself."""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
from flax import linen as nn

from mmjax import optim, own_data, sharding, training, vocabulary, workdir
from mmjax.checkpoint import Checkpointing, restore_params, saved_shapes
from mmjax.contrastive import running
from mmjax.data import tokenizers
from mmjax.data.geometry import Preprocess
from mmjax.data.pipeline import Data
from mmjax.data.tokenizers import TokenizerConfig
from mmjax.evals import Evaluator
from mmjax.evaluation import check_needs
from mmjax.finetune import inherited
from mmjax.finetune.backbone import Backbone
from mmjax.finetune.contrast_setup import Setup, read_fixed, set_up, tuned_of
from mmjax.finetune.pruned import check_steps
from mmjax.model import Model
from mmjax.optim import Optim
from mmjax.sharding import MeshShape
from mmjax.training import Training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast:
    """Everything that a contrastive finetune is.

    What is None, or empty, is taken from the checkpoint, or else from the teacher; the run's own
    `config.json` has it all, so that its workdir is read without the other ones. A tower begins anew where it
    is given with `adapt=Adapt(fresh=".")`, and all do without `init_from`.
    """

    init_from: str | None = None  # the workdir of a run, or workdir@step, or workdir@best
    teacher: str | None = None  # likewise: a run that embeds every batch, for objectives that learn from it
    towers: dict[str, Backbone] = dataclasses.field(default_factory=dict)  # {}: those of the checkpoint
    objective: nn.Module | None = None  # of the checkpoint's kind, with what it learned there, or begun anew
    data: Data
    colour: tuple[Callable, ...] = ()  # augmentations on the device, in order
    # Only its size may be another than the checkpoint's; None: with the size that data.geometry ends with.
    preprocess: Preprocess | None = None
    steps: int
    optim: Optim = Optim()
    accumulate: int = 1  # micro-batches that a batch is worked off in: less memory, the same gradient
    mesh: MeshShape = MeshShape()
    checkpoint: Checkpointing = Checkpointing()
    evals: dict[str, Evaluator] = dataclasses.field(default_factory=dict)
    log_every: int = 50  # steps between lines of metrics.jsonl
    seed: int = 0

    def __post_init__(self):
        training.check(self)
        check_steps(self.towers, self.steps)
        optim.learning_rate(self.optim, self.steps)
        if self.init_from is None and self.teacher is None:
            raise ValueError("init_from and teacher are both None; give a run, or pretrain with Pretrain")
        for name, tower in self.towers.items():
            if tower.frozen_steps:
                raise ValueError(
                    f"towers.{name}.frozen_steps={tower.frozen_steps} is for classification; use 0, and "
                    "optim.frozen for a tower that stays as it is"
                )

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The towers of a resolved config, by modality."""
        return {name: tower.module for name, tower in self.towers.items()}

    @property
    def tokenizer(self) -> TokenizerConfig | None:
        """Of texts, where there is a tower for them; of a resolved config."""
        return self.towers["text"].tokenizer if "text" in self.towers else None

    def run(self, directory: pathlib.Path):
        """What `mmjax.main` calls: `run` of this config."""
        run(self, directory)

    def with_data(self, data: str) -> "Contrast":
        """This config on pictures and texts of a folder, or `tfds:NAME`: what `mmjax.main --data` calls."""
        resolved = inherited.resolved(self, inherited.find(self))
        cfg = own_data.with_pairs(resolved, data)
        given = self.towers or {name: Backbone() for name in resolved.towers}
        text, module, tokenizer = given["text"], resolved.modules["text"], resolved.tokenizer
        # What a teacher or a checkpoint has read before, it reads on.
        if self.teacher is None and not inherited.is_new(self, "text"):
            text = dataclasses.replace(text, tokenizer=own_data.lengthened(tokenizer, module))
        elif self.teacher is None and text.tokenizer is not None:
            text = dataclasses.replace(text, tokenizer=own_data.for_sentences(tokenizer, module))
        return dataclasses.replace(
            self, towers=given | {"text": text}, data=cfg.data, colour=cfg.colour, evals=cfg.evals
        )

    def changes(self, after: "Contrast") -> str:
        """One line for people: what `with_data` changed, beside the data."""
        return own_data.changes(self, inherited.resolved(after, inherited.find(after)))

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


def run(cfg: Contrast, directory: pathlib.Path):
    """Finetunes, evaluates and reports in `directory`; goes on from its last checkpoint if there is one."""
    setup = set_up(cfg)
    cfg, mesh = setup.cfg, setup.mesh
    model = running.make_model(cfg, None, mesh, params=None)
    check_needs(cfg.evals, model.embed)
    training.begin(cfg, directory)
    setup.weights.report()
    model = dataclasses.replace(model, tokenizer=_tokenizer(setup, directory))
    batch = running.batch_shapes(cfg, mesh)

    def embed(state, *fixed):
        return dataclasses.replace(model, params=setup.whole(state.get("ema", state["params"]), *fixed)).embed

    training.train(
        cfg,
        directory,
        Training(
            mesh=mesh,
            shapes=setup.state,
            fixed=setup.read_fixed,
            first=setup.first_state,
            step=setup.step(),
            batch=batch,
            batches=lambda start: running.batches(cfg, model.tokenizer, start),
            flops=lambda: model_flops(setup, batch),
            embed=embed,
        ),
    )


def load_model(
    cfg: Contrast,
    directory: pathlib.Path,
    checkpoints: pathlib.Path,
    step: int,
    *,
    average: bool,
    read: Callable = restore_params,
) -> Model:
    """The model of a run with the weights of a step in its folder `checkpoints`, or their average.

    `read` is called as `restore_params` is, and may give parameters of another kind.

    Raises:
        ValueError: the run keeps only what was trained, and the checkpoint that it began with is gone.
    """
    mesh = sharding.make_mesh(MeshShape())
    item = "ema" if average and cfg.optim.ema else "params"
    shapes = saved_shapes(checkpoints, step, item=item)
    wanted = sharding.with_layout(shapes, sharding.shardings(mesh, shapes))
    trained = read(checkpoints, wanted, step, item=item)
    params = tuned_of(cfg).merged(trained, read_fixed(cfg, mesh))
    tokenizer = None if cfg.tokenizer is None else tokenizers.load(directory, cfg.tokenizer)
    objective = {"objective": trained.get("objective", {})}
    return running.make_model(cfg, tokenizer, mesh, params | objective)


def model_flops(setup: Setup, batch) -> int:
    """Operations of a step; towers of which nothing is trained have no backward pass, nor has the teacher."""
    cfg, teacher, of_teacher = setup.cfg, setup.teacher, 0
    if teacher is not None:
        batch, of_teacher = {**batch, **teacher.said(cfg)}, teacher.flops(cfg, batch)
    return of_teacher + running.model_flops(cfg, setup.params, batch, still=setup.locked)


def _tokenizer(setup: Setup, directory: pathlib.Path):
    """The run's tokenizer; that of the checkpoint, or the teacher, is copied into its directory."""
    cfg = setup.cfg
    if cfg.tokenizer is None:
        return None
    path = directory / tokenizers.FILE
    if setup.vocabulary is not None and jax.process_index() == 0 and not path.is_file():
        workdir.write(path, setup.vocabulary.tokenizer().model)
    return vocabulary.of_run(directory, cfg.tokenizer, cfg.data, cfg.seed)
