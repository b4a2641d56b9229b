"""A queue of past embeddings as state of a run: saved, resumed, and the same however a step is taken."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
import threefold
import tinyclip
from threefold import VIEWS, batch

from mmjax import sharding
from mmjax.checkpoint import Checkpointing, Checkpoints
from mmjax.contrastive import accumulation
from mmjax.contrastive.step import compile_step, init_state
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.queue import Queue
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.optim import Optim

KEY = jax.random.key(2)
SIZE = 96
QUEUE = Queue(size=SIZE)
OBJECTIVES = {
    "infonce": InfoNCE(initial_scale=10.0, views=VIEWS, duplicates="masked", queue=QUEUE),
    "sigmoid": Sigmoid(views=VIEWS, duplicates="positives", queue=QUEUE),
}


def config(name="infonce", **fields):
    return threefold.config(
        objective=OBJECTIVES[name],
        dropout=0.2,
        hard_texts=1,
        steps=6,
        log_every=1,
        optim=Optim(lr=1e-3),
        checkpoint=Checkpointing(every_steps=3, every_minutes=None),
        **fields,
    )


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines}


def last_state(workdir, cfg):
    shapes = jax.eval_shape(lambda: init_state(cfg, 8))
    mesh = sharding.make_mesh(cfg.mesh)
    checkpoints = Checkpoints(workdir / "checkpoints", cfg.checkpoint)
    state, _ = checkpoints.restore(sharding.with_layout(shapes, sharding.shardings(mesh, shapes)))
    checkpoints.close()
    return jax.device_get(state)


def test_a_resumed_run_remembers_what_the_run_did(tmp_path):
    cfg, whole, cut = config(), tmp_path / "whole", tmp_path / "cut"
    cfg.run(whole)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "6")
    cfg.run(cut)
    assert losses(cut) == losses(whole)
    one, other = (last_state(workdir, cfg) for workdir in (whole, cut))
    assert one["memory"]["queue"]["image"].any() and one["memory"]["queue"]["turn"] == 6 % (SIZE // 32)
    jax.tree.map(np.testing.assert_array_equal, one, other)


STEPS = 4  # one more than the queue holds: its oldest entries go


def steps(cfg, sizes):
    """Metrics of every step, and the memory after the last, each step on other rows in another order."""
    mesh, first = tinyclip.mesh_of(sizes), jax.device_get(jax.jit(lambda: init_state(cfg, 8))())
    batches = [
        {name: np.roll(rows, 5 * i, 0) for name, rows in batch(hard_texts=1).items()} for i in range(STEPS)
    ]
    layout, found = sharding.shardings(mesh, first), []
    with jax.set_mesh(mesh):
        spread = [sharding.put_batch(mesh, each) for each in batches]
        step = compile_step(cfg, mesh, layout, jax.eval_shape(lambda: first), spread[0])
        state = jax.device_put(first, layout)
        for each in spread:
            state, metrics = step(state, each)
            found.append(jax.device_get(metrics))
    return found, jax.device_get(state["memory"])


@functools.cache
def alone(name):
    return steps(config(name), (1, 1, 1))


@pytest.mark.parametrize(
    ("name", "sizes", "accumulate"),
    [
        ("infonce", (2, 4, 1), 4),
        pytest.param("sigmoid", (2, 2, 2), 2, marks=pytest.mark.slow),
        pytest.param("infonce", (8, 1, 1), 1, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_steps_with_a_queue_are_the_same_on_any_mesh_and_in_micro_batches(name, sizes, accumulate):
    found, memory = steps(config(name, accumulate=accumulate), sizes)
    expected, memory_alone = alone(name)
    for one, other in zip(found, expected, strict=True):
        for metric in ("loss", "grad_norm/image", "grad_norm/text", "grad_norm/sound"):
            np.testing.assert_allclose(one[metric], other[metric], rtol=2e-5, err_msg=metric)
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, atol=1e-4), memory, memory_alone)


def test_the_queue_holds_the_embeddings_of_the_last_steps_and_no_gradient_reaches_it():
    cfg = config()
    first, data = jax.device_get(jax.jit(lambda: init_state(cfg, 8))()), batch(hard_texts=1)
    compiled = jax.jit(lambda params, memory: accumulation.value_and_grad(cfg, params, data, KEY, memory))
    (value, found), gradient = compiled(first["params"], first["memory"])
    held = jax.device_get(found.memory)["queue"]
    for name in ("image", "text", "sound"):
        rows = held[name].reshape(32, SIZE // 32, -1)
        np.testing.assert_array_equal(rows[:, 0], found.z[name])
        assert not rows[:, 1:].any()
    # Beside a full queue the gradient by the towers is that of the loss with the queue held fixed.
    (second, _), gradient = compiled(first["params"], found.memory)
    assert second > value
    slope = sum(np.sum(np.float64(leaf) ** 2) for leaf in jax.tree.leaves(gradient["sound"]))
    losses = []
    for move in (1e-2, -1e-2):
        along = jax.tree.map(
            lambda p, g, move=move: p + move * g / np.sqrt(slope),
            *(tree["sound"] for tree in (first["params"], gradient)),
        )
        losses.append(compiled(first["params"] | {"sound": along}, found.memory)[0][0])
    np.testing.assert_allclose((losses[0] - losses[1]) / 2e-2, np.sqrt(slope), rtol=0.02)


def test_an_objective_that_remembers_nothing_leaves_the_state_as_it_was():
    assert set(jax.eval_shape(lambda: init_state(threefold.config(), 8))) == {
        "params",
        "opt_state",
        "step",
        "key",
    }
