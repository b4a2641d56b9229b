"""Contrastive pretraining: the config of a run, and the run itself.

Letters: B batch, H W C image, S positions, E embedding.
"""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from mmjax import config, flops, loop, metrics, optim, own_data, sharding, vocabulary, workdir
from mmjax.checkpoint import Checkpointing, Checkpoints
from mmjax.data import REASONS, pipeline
from mmjax.data.geometry import Preprocess
from mmjax.data.pipeline import Data
from mmjax.data.tokenizers import Tokenizer, TokenizerConfig
from mmjax.evals import Evaluator
from mmjax.evaluation import Evaluation, finish
from mmjax.model import Model, check_marks, check_vocab, encoders
from mmjax.optim import Optim
from mmjax.pretrain import accumulation
from mmjax.pretrain.loss import loss
from mmjax.pretrain.step import compile_step, init_state, with_layout
from mmjax.sharding import MeshShape

log = logging.getLogger("mmjax")


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
        if self.steps < 1 or self.log_every < 1:
            raise ValueError(f"steps={self.steps} and log_every={self.log_every} must be at least 1")
        if self.accumulate < 1 or self.data.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate={self.accumulate} does not divide data.batch_size={self.data.batch_size}; use "
                "one of its divisors"
            )
        optim.learning_rate(self.optim, self.steps)
        best = self.checkpoint.best_metric
        watched = [f"val/{e.name}/" for e in self.evals.values() if e.every_steps]
        if best is not None and not best.startswith(tuple(watched)):
            raise ValueError(
                f"checkpoint.best={best!r} is no metric of an evaluator with every_steps: {watched}"
            )

    def run(self, directory: pathlib.Path):
        """What `mmjax.main` calls: `run` of this config."""
        run(self, directory)

    def with_data(self, data: str) -> "Pretrain":
        """This config on other data, a folder or `tfds:NAME`: what `mmjax.main --data` calls."""
        return own_data.with_data(self, data)


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
    workdir.claim(directory, cfg)
    metrics.start_log(directory / "log.txt" if jax.process_index() == 0 else None)
    log.info("%s", config.show(cfg))
    with metrics.phase("preparing the data"):
        for prepared in (cfg.data.train, *cfg.evals.values()):
            prepared.prepare()
    tokenizer = vocabulary.of_run(directory, cfg.tokenizer, cfg.data, cfg.seed)
    peak = _peak()
    with jax.set_mesh(mesh):
        _train(cfg, directory, mesh, shapes, tokenizer, peak)


def _train(cfg: Pretrain, directory: pathlib.Path, mesh: Mesh, shapes, tokenizer: Tokenizer, peak: float):
    layout = sharding.shardings(mesh, shapes)
    batch = _batch_shapes(cfg, mesh)
    checkpoints = Checkpoints(directory / "checkpoints", cfg.checkpoint)
    # Before anything is compiled: what is wrong with the data shows here.
    batches = _batches(cfg, tokenizer, checkpoints.latest() or 0)
    state, start = _first_state(cfg, mesh, shapes, layout, checkpoints)
    with metrics.phase("compiling the train step"):
        step = compile_step(cfg, mesh, layout, shapes, batch)
    step_flops = model_flops(cfg, shapes["params"], batch)
    _describe(cfg, shapes["params"], mesh, step_flops)
    writer = metrics.Writer(directory, resumed_at=start)
    with contextlib.closing(writer):
        evaluation = Evaluation(cfg.evals, cfg.steps, writer, best=cfg.checkpoint.best_metric)
        model = make_model(cfg, tokenizer, mesh, params=None)

        def evaluate(step, state):
            now = dataclasses.replace(model, params=state.get("ema", state["params"]))
            return evaluation.run(step, now.embed)

        loop.fit(
            loop.Loop(
                step=step,
                mesh=mesh,
                steps=cfg.steps,
                batch_size=cfg.data.batch_size,
                log_every=cfg.log_every,
                flops_per_s=(step_flops, peak),
                evaluate=evaluate,
                writer=writer,
                checkpoints=checkpoints,
                meta=lambda step: {"next_index": step * cfg.data.batch_size},
                of_data=lambda step: _replaced(batches, step * cfg.data.batch_size),
            ),
            state,
            batches,
            start=start,
        )
    checkpoints.close()
    sources = [cfg.data.train, *(evaluator.source for evaluator in cfg.evals.values())]
    licences = list(dict.fromkeys(source.licence for source in sources if source.licence))
    finish(directory, cfg, evaluation, licences)


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


def _first_state(cfg, mesh, shapes, layout, checkpoints):
    """The state to start from and the number of steps it has seen."""
    latest = checkpoints.latest()
    if latest is None:
        return jax.jit(lambda: init_state(cfg, sharding.batch_devices(mesh)), out_shardings=layout)(), 0
    with metrics.phase(f"restoring step {latest}"):
        state, meta = checkpoints.restore(with_layout(shapes, layout))
    assert meta["next_index"] == latest * cfg.data.batch_size
    return state, latest


def _batch_shapes(cfg: Pretrain, mesh: Mesh):
    """What one global batch looks like, from the first example of the training data."""
    channels, size, rows = pipeline.channels(cfg.data), cfg.preprocess.size, cfg.data.batch_size
    kinds = {
        "image": ((rows, size, size, channels), jnp.uint8),
        "text": ((rows, cfg.tokenizer.length), jnp.int32),
        "id": ((rows,), jnp.int32),
    }
    where = sharding.batch_sharding(mesh)
    return {name: jax.ShapeDtypeStruct(*kind, sharding=where) for name, kind in kinds.items()}


def _batches(cfg: Pretrain, tokenizer: Tokenizer, start: int):
    return pipeline.batches(
        cfg.data,
        tokenizer,
        start=start * cfg.data.batch_size,
        process=jax.process_index(),
        processes=jax.process_count(),
    )


def _replaced(batches: pipeline.Batches, end: int) -> dict[str, float]:
    """Examples replaced since the last call, up to a global index, in all processes: metrics by reason."""
    found = metrics.summed(batches.replaced.count(end), REASONS)
    return {f"data/replaced/{reason}": float(count) for reason, count in found.items()}


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


def _peak() -> float:
    """FLOP/s of all devices of all processes at their peak; the devices of a CPU share its cores."""
    device = jax.local_devices()[0]
    return flops.peak(device) * (jax.process_count() if device.platform == "cpu" else jax.device_count())


def _describe(cfg: Pretrain, params, mesh: Mesh, step_flops: int):
    for name, tree in params.items():
        count = sum(x.size for x in jax.tree.leaves(tree))
        log.info("%-10s %s parameters", name, f"{count:,}")
    shape = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    log.info("mesh       %s; %s", shape, mesh.devices.flat[0].device_kind)
    log.info("step       %d examples, %.2f GFLOP", cfg.data.batch_size, step_flops / 1e9)
