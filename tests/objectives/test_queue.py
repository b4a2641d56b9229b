"""A queue of past embeddings: what it holds, and what the loss makes of it, against lists in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tinyclip

from mmjax import sharding
from mmjax.objectives.distilled import DistilledInfoNCE
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.pairs import Views
from mmjax.objectives.queue import Queue
from mmjax.objectives.sigmoid import Sigmoid

B, E, SIZE = 8, 16, 24
SCALE = 5.0


def step_inputs(step):
    """Embeddings and batch of one step; some examples lack a text."""
    rng = np.random.default_rng(step)
    z = {name: rng.standard_normal((B, E)) for name in ("image", "text")}
    z = {name: np.float32(x / np.linalg.norm(x, axis=1, keepdims=True)) for name, x in z.items()}
    return z, {"id": rng.integers(0, 12, B).astype(np.int32), "present/text": rng.random(B) < 0.8}


def run(objective, steps, mesh=None):
    """(loss, gradient by z, memory after it) of every step, each with the memory of the one before."""

    @jax.jit
    def one(params, memory, z, batch):
        def loss(z):
            variables = {"params": params, "memory": memory}
            found, changed = objective.apply(variables, z, batch, mutable=["memory"])
            return found.value, changed["memory"]

        (value, memory), gradient = jax.value_and_grad(loss, has_aux=True)(z)
        return value, gradient, memory

    first = objective.init(jax.random.key(0), *step_inputs(0))
    params, memory, found = first["params"], first["memory"], []
    for step in range(steps):
        inputs = step_inputs(step) if mesh is None else sharding.put_batch(mesh, step_inputs(step))
        value, gradient, memory = one(params, memory, *inputs)
        found.append(jax.device_get((value, gradient, memory)))
    return found


def expected_infonce(past, z, batch):
    """Masked InfoNCE of those that have both; `past`: (image, text, id, has a text) of each, oldest first."""
    there = batch["present/text"]
    x, y, ids = (np.float64(value)[there] for value in (z["image"], z["text"], batch["id"]))
    past_ids = np.array([entry[2] for entry in past])
    has_text = np.array([entry[3] for entry in past], bool)
    total = 0.0
    for own, other, side, exists in ((x, y, 1, has_text), (y, x, 0, np.ones(len(past), bool))):
        for i in range(len(own)):
            apart = (ids != ids[i]) | (np.arange(len(ids)) == i)
            logits = list(SCALE * other[apart] @ own[i])
            for entry, id_, exist in zip(past, past_ids, exists, strict=True):
                if exist and id_ != ids[i]:
                    logits.append(SCALE * np.float64(entry[side]) @ own[i])
            total += np.log(np.exp(logits).sum()) - SCALE * own[i] @ other[i]
    return total / 2 / len(x)


def infonce(**fields):
    return InfoNCE(initial_scale=SCALE, duplicates="masked", queue=Queue(size=SIZE), **fields)


def test_the_loss_of_every_step_is_that_of_the_batch_beside_the_last_batches():
    past = []
    for step, (value, _, memory) in enumerate(run(infonce(), 6)):
        z, batch = step_inputs(step)
        np.testing.assert_allclose(value, expected_infonce(past, z, batch), rtol=1e-5)
        past += list(zip(z["image"], z["text"], batch["id"], batch["present/text"], strict=True))
        past = past[-SIZE:]
        held = memory["queue"]
        rows = zip(held["image"], held["text"], held["ids"], held["text_present"], strict=True)
        found = sorted(
            tuple(map(float, (*image, *text, *label))) for image, text, *label in rows if image.any()
        )
        wanted = sorted(tuple(map(float, (*image, *text, *label))) for image, text, *label in past)
        assert found == wanted


@pytest.mark.parametrize("objective", [InfoNCE, Sigmoid])
def test_an_empty_queue_changes_nothing(objective):
    plain = objective(duplicates="positives")
    z, batch = step_inputs(0)
    variables = plain.init(jax.random.key(0), z, batch)
    value, gradient = jax.value_and_grad(lambda z: plain.apply(variables, z, batch).value)(z)
    found = run(plain.clone(queue=Queue(size=SIZE)), 1)[0]
    np.testing.assert_allclose(found[0], value, rtol=1e-6)
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-6), found[1], gradient)


def test_each_prefix_is_compared_with_prefixes_of_the_queue():
    def unit_prefix(x):
        return x[:, :4] / np.linalg.norm(x[:, :4], axis=1, keepdims=True)

    first, _ = step_inputs(0)
    (z, batch), found = step_inputs(1), run(infonce(views=Views(widths=(4,))), 2)
    labels = step_inputs(0)[1]
    past = list(zip(first["image"], first["text"], labels["id"], labels["present/text"], strict=True))
    short = [(*unit_prefix(np.stack([image, text])), *label) for image, text, *label in past]
    whole = expected_infonce(past, z, batch)
    prefix = expected_infonce(short, {name: unit_prefix(x) for name, x in z.items()}, batch)
    np.testing.assert_allclose(found[1][0], (whole + prefix) / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "implementation"),
    [
        ((8, 1, 1), "dense"),
        ((2, 2, 2), "gather"),
        pytest.param((8, 1, 1), "gather", marks=pytest.mark.slow),
        pytest.param((8, 1, 1), "ring", marks=pytest.mark.slow),
        pytest.param((2, 2, 2), "ring", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_queue_is_the_same_on_every_mesh(sizes, implementation):
    alone = run(infonce(), 5)
    mesh = tinyclip.mesh_of(sizes)
    with jax.set_mesh(mesh):
        spread = run(infonce(implementation=implementation), 5, mesh)
    for one, other in zip(spread, alone, strict=True):
        jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=2e-5, atol=1e-6), one, other)


def test_nothing_is_sent_to_remember_a_batch():
    mesh, queue = tinyclip.mesh_of((8, 1, 1)), Queue(size=8 * B)
    z, batch = step_inputs(0)
    present = {"image": None, "text": batch["present/text"]}

    def exchange(memory, z, present, ids):
        return queue.apply({"memory": memory}, z, present, ids, mutable=["memory"])[1]["memory"]

    with jax.set_mesh(mesh):
        memory = queue.init(jax.random.key(0), z, present, batch["id"])["memory"]
        layout = sharding.shardings(mesh, {"memory": memory})["memory"]
        memory = jax.device_put(memory, layout)
        program = jax.jit(exchange, out_shardings=layout).lower(
            memory, *sharding.put_batch(mesh, (z, present, batch["id"]))
        )
    assert not layout["image"].is_fully_replicated
    text = program.compile().as_text()
    assert "dynamic-update-slice" in text
    assert not any(name in text for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))


def test_a_distilled_objective_keeps_its_queue():
    z, batch = step_inputs(0)
    batch |= {f"teacher/{name}": x for name, x in z.items()}
    variables = DistilledInfoNCE(infonce=infonce()).init(jax.random.key(0), z, batch)
    assert variables["memory"]["infonce"]["queue"]["image"].shape == (SIZE, E)


def test_a_queue_that_does_not_hold_whole_batches_is_refused():
    with pytest.raises(ValueError, match="queue.size=20 does not hold whole batches; use a multiple of the "):
        run(InfoNCE(queue=Queue(size=20)), 1)
    with pytest.raises(ValueError, match="queue.size=0 must be 1 or more"):
        Queue(size=0)


def test_memory_has_strong_types_so_that_a_second_step_compiles_nothing():
    variables = infonce().init(jax.random.key(0), *step_inputs(0))
    for leaf in jax.tree.leaves(variables["memory"]):
        assert not leaf.weak_type and leaf.dtype in (jnp.float32, jnp.int32, jnp.bool_)
