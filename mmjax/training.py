"""What every way to train does around its step: the workdir, the stream, compiling, the loop, the report.

`pretrain` and `finetune` say what differs between them with a `Training`; nothing of it is written twice.
"""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mmjax import config, flops, loop, metrics, optim, sharding, workdir
from mmjax.checkpoint import Checkpoints
from mmjax.data import REASONS, pipeline
from mmjax.evals import Embed
from mmjax.evaluation import Evaluation, check_best, finish, licences
from mmjax.towers import batch_norm

log = logging.getLogger("mmjax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """What of a run differs from one way to train to another; its functions are called within the mesh."""

    mesh: Mesh
    shapes: Any  # of the state, which has a key `params`
    first: Callable[..., Any]  # (layout, *fixed) -> the state that a run begins with
    step: Callable[..., tuple[Any, dict[str, jax.Array]]]  # pure: (state, batch, *fixed) -> (state, metrics)
    batch: dict[str, jax.ShapeDtypeStruct]
    batches: Callable[[int], pipeline.Batches]  # from so many steps on
    flops: Callable[[], int]  # of the model, in one step
    embed: Callable[..., Embed]  # (state, *fixed): what evaluators are given
    fixed: Callable[[], tuple[Any, ...]] = lambda: ()  # arrays that no step changes and no checkpoint holds


def begin(cfg, directory: pathlib.Path):
    """Claims the directory, starts the log, and makes data ready; what can be refused before, was."""
    workdir.claim(directory, cfg)
    metrics.start_log(directory / "log.txt" if jax.process_index() == 0 else None)
    log.info("%s", config.show(cfg))
    prepare(cfg)


def prepare(cfg):
    """Makes the data ready, where it is not yet; what cannot be raises ValueError."""
    with metrics.phase("preparing the data"):
        for prepared in (cfg.data.train, *cfg.evals.values()):
            prepared.prepare()


def train(cfg, directory: pathlib.Path, training: Training):
    """Trains, evaluates and reports in `directory`; goes on from its last checkpoint where there is one.

    Args:
        cfg: a config with the fields `data`, `steps`, `log_every`, `checkpoint` and `evals`.
    """
    peak = _peak()
    with jax.set_mesh(training.mesh):
        _train(cfg, directory, training, peak)


def _train(cfg, directory: pathlib.Path, training: Training, peak: float):
    mesh, layout = training.mesh, sharding.shardings(training.mesh, training.shapes)
    checkpoints = Checkpoints(directory / "checkpoints", cfg.checkpoint)
    # Before anything is compiled: what is wrong with the data shows here.
    batches = training.batches(checkpoints.latest() or 0)
    fixed = training.fixed()
    state, start = _first_state(cfg, training, layout, fixed, checkpoints)
    with metrics.phase("compiling the train step"):
        step = compile_step(training.step, mesh, layout, training.shapes, training.batch, *fixed)
    step_flops = training.flops()
    _describe(cfg, training.shapes["params"], mesh, step_flops)
    writer = metrics.Writer(directory, resumed_at=start)
    with contextlib.closing(writer):
        evaluation = Evaluation(cfg.evals, cfg.steps, writer, best=cfg.checkpoint.best_metric)
        loop.fit(
            loop.Loop(
                step=lambda state, batch: step(state, batch, *fixed),
                mesh=mesh,
                steps=cfg.steps,
                batch_size=cfg.data.batch_size,
                log_every=cfg.log_every,
                flops_per_s=(step_flops, peak),
                evaluate=lambda step, state: evaluation.run(step, training.embed(state, *fixed)),
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
    finish(directory, cfg, evaluation, licences(cfg.data.train, *cfg.evals.values()))


def state_of(cfg, params, key, *, towers: optim.Towers | None = None) -> dict[str, Any]:
    """The state that training of `params` begins with; `ema`, where asked for, begins as a copy of them.

    Args:
        cfg: a config with the fields `optim` and `steps`.
        key: random key of the run; every step draws from it.
        towers: as of `optim.make`.
    """
    state = {
        "params": params,
        "opt_state": optim.make(cfg.optim, cfg.steps, towers).init(params),
        "step": jnp.zeros((), jnp.int32),
        "key": jax.random.key_data(key),
    }
    # A copy: the step is given the memory of both to write into.
    return state | ({"ema": jax.tree.map(jnp.copy, params)} if cfg.optim.ema else {})


def step_key(state):
    """The random key of the step that comes next."""
    return jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["step"])


def update(cfg, state, grads, statistics, *, still=None, towers: optim.Towers | None = None):
    """The state after a step, and metrics of it.

    Args:
        statistics: running ones, that take the place of parameters at their paths.
        still: a tree of bool like the parameters: which stay as they are; None for none.
        towers: as of `optim.make`.
    """
    tx = optim.make(cfg.optim, cfg.steps, towers)
    updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
    params = batch_norm.with_statistics(optax.apply_updates(state["params"], updates), statistics)
    if still is not None:
        params = jax.tree.map(jnp.where, still, state["params"], params)
        updates = jax.tree.map(lambda stays, x: jnp.where(stays, 0, x), still, updates)
    new = {**state, "params": params, "opt_state": opt_state, "step": state["step"] + 1}
    if cfg.optim.ema:
        new["ema"] = optim.average(cfg.optim, state["ema"], params, state["step"])
    rate = optim.learning_rate(cfg.optim, cfg.steps)
    found = {"lr": rate(state["step"]), "grad_norm": optax.tree.norm(grads)}
    for name in params:
        found[f"grad_norm/{name}"] = optax.tree.norm(grads[name])
        found[f"update_norm/{name}"] = optax.tree.norm(updates[name])
    return new, found


def check(cfg):
    """Raises ValueError for values of a config's fields that no training can have."""
    if cfg.steps < 1 or cfg.log_every < 1:
        raise ValueError(f"steps={cfg.steps} and log_every={cfg.log_every} must be at least 1")
    check_best(cfg.checkpoint.best_metric, cfg.evals)


def compile_step(step: Callable, mesh: Mesh, layout, shapes, batch, *fixed):
    """A pure step, compiled for the mesh; the state keeps its layout and its memory."""
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(layout, sharding.replicated(mesh)))
    return jitted.lower(sharding.with_layout(shapes, layout), batch, *fixed).compile()


def batch_shapes(cfg, mesh: Mesh, kinds: dict[str, tuple[tuple[int, ...], Any]]):
    """Global batches of so many rows as `cfg.data` says, from the (shape, dtype) of a row by name."""
    rows, where = cfg.data.batch_size, sharding.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=where)
        for name, (shape, dtype) in kinds.items()
    }


def _first_state(cfg, training: Training, layout, fixed, checkpoints: Checkpoints):
    """The state to start from and the number of steps it has seen."""
    latest = checkpoints.latest()
    if latest is None:
        return training.first(layout, *fixed), 0
    with metrics.phase(f"restoring step {latest}"):
        state, meta = checkpoints.restore(sharding.with_layout(training.shapes, layout))
    assert meta["next_index"] == latest * cfg.data.batch_size
    return state, latest


def _replaced(batches: pipeline.Batches, end: int) -> dict[str, float]:
    """Examples replaced since the last call, up to a global index, in all processes: metrics by reason."""
    found = metrics.summed(batches.replaced.count(end), REASONS)
    return {f"data/replaced/{reason}": float(count) for reason, count in found.items()}


def _peak() -> float:
    """FLOP/s of all devices of all processes at their peak; the devices of a CPU share its cores."""
    device = jax.local_devices()[0]
    return flops.peak(device) * (jax.process_count() if device.platform == "cpu" else jax.device_count())


def _describe(cfg, params, mesh: Mesh, step_flops: int):
    for name, tree in params.items():
        count = sum(x.size for x in jax.tree.leaves(tree))
        log.info("%-10s %s parameters", name, f"{count:,}")
    shape = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    log.info("mesh       %s; %s", shape, mesh.devices.flat[0].device_kind)
    log.info("step       %d examples, %.2f GFLOP", cfg.data.batch_size, step_flops / 1e9)
