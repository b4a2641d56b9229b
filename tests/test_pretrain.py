"""The train state, the step and the checks of a pretraining config."""

import dataclasses
import functools

import debugrun
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import debug
from mmjax import flops, optim, sharding
from mmjax.checkpoint import Checkpointing
from mmjax.contrastive.step import compile_step, init_state, make_step
from mmjax.data.colour import Invert
from mmjax.optim import Optim
from mmjax.pretrain import model_flops
from mmjax.sharding import MeshShape
from mmjax.towers import Encoded


class Linear(nn.Module):
    """One dense layer on all that comes in: a tower that compiles fast and whose formula is one line."""

    embed: int = 8
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, inputs, *, train=False):
        x_BD = jnp.reshape(inputs, (len(inputs), -1)).astype(jnp.float32)
        x_BD = nn.Dropout(self.dropout, deterministic=not train)(x_BD)
        return Encoded(nn.Dense(self.embed, name="head")(x_BD), x_BD[:, None])


LINEAR = Linear()


def small(image=LINEAR, text=LINEAR, **fields):
    return dataclasses.replace(debugrun.config(), towers={"image": image, "text": text}, **fields)


def batch(rows=16, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (rows, debug.SIZE, debug.SIZE, 3), dtype=np.uint8),
        "text": rng.integers(2, 300, (rows, 16), dtype=np.int32),
        "id": np.arange(rows, dtype=np.int32),
    }


def init(cfg, batch_size=8):
    return jax.device_get(jax.jit(lambda: init_state(cfg, batch_size))())


@functools.cache
def first_state():
    return init(small())


def leaves(tree, part=""):
    found = jax.tree_util.tree_leaves_with_path(tree)
    return [np.asarray(leaf) for path, leaf in found if part in sharding.path_name(path)]


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_first_state_is_a_function_of_the_seed_alone():
    cfg = small()
    first, other = first_state(), init(dataclasses.replace(cfg, seed=1))
    assert_equal(init(cfg, batch_size=16), first)
    kernels = [leaves(state["params"], "kernel") for state in (first, other)]
    assert len(kernels[0]) == 2
    assert not any(np.array_equal(*pair) for pair in zip(*kernels, strict=True))
    assert not np.array_equal(first["key"], other["key"])


def test_the_first_state_has_float32_masters_no_steps_and_moments_of_zero():
    state = debugrun.state()
    assert {leaf.dtype for leaf in leaves(state["params"])} == {np.dtype("float32")}
    assert state["step"] == 0
    assert not any(np.any(leaf) for leaf in leaves(state["opt_state"]))


def linear(params, x):
    z_BE = np.asarray(x, np.float64).reshape(len(x), -1) @ params["head"]["kernel"] + params["head"]["bias"]
    return z_BE / np.linalg.norm(z_BE, axis=1, keepdims=True)


def infonce(scale, z_image, z_text):
    logits = scale * z_image @ z_text.T
    right = np.diag(logits)
    both = [np.log(np.exp(logits).sum(axis=axis)) - right for axis in (0, 1)]
    return np.mean(both)


def test_steps_on_a_mesh_find_the_loss_and_the_metrics_of_the_formulas():
    cfg, data = small(), batch()
    mesh = sharding.make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    first = first_state()
    layout = sharding.shardings(mesh, first)
    assert not layout["params"]["image"]["head"]["kernel"].is_fully_replicated
    with jax.set_mesh(mesh):
        spread = sharding.put_batch(mesh, data)
        shapes = jax.eval_shape(lambda: init_state(cfg, 8))
        step = compile_step(cfg, mesh, layout, shapes, spread)
    state, params = jax.device_put(first, layout), first["params"]
    rate = optim.learning_rate(cfg.optim, cfg.steps)
    for t in range(3):
        # A compiled program takes nothing laid out otherwise, so a step gives back what it takes.
        state, found = step(state, spread)
        image = data["image"] / 255 - np.array(cfg.preprocess.mean)
        z_image = linear(params["image"], image / np.array(cfg.preprocess.std))
        z_text = linear(params["text"], data["text"])
        scale = np.exp(params["objective"]["log_scale"])
        expected = {
            "loss": infonce(scale, z_image, z_text),
            "scale": scale,
            "positive": np.mean(np.sum(z_image * z_text, axis=1)),
            "lr": rate(t),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
        assert state["step"] == t + 1
        before, params = params, jax.device_get(state["params"])
        # Only the first rate of the warm-up is 0.
        moved = [not np.array_equal(*pair) for pair in zip(leaves(params), leaves(before), strict=True)]
        assert all(moved) if t else not any(moved)


def test_the_gradient_is_the_slope_of_the_loss_and_further_steps_are_not_traced_again():
    cfg, data, traced = small(optim=Optim(lr=1e-3, clip=None)), batch(), []

    def counted(state, data):
        traced.append(1)
        return make_step(cfg)(state, data)

    step, state = jax.jit(counted), jax.device_put(first_state())
    new, found = step(state, data)
    # Adam's first moment is 1 - b1 times the first gradient.
    gradient = [leaf / (1 - cfg.optim.rule.b1) for leaf in leaves(new["opt_state"], "/mu/")]
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in gradient))
    np.testing.assert_allclose(found["grad_norm"], norm, rtol=1e-5)
    # Along the gradient the loss changes by the gradient's norm.
    structure = jax.tree.structure(state["params"])
    losses = []
    for move in (1e-3, -1e-3):
        along = jax.tree.unflatten(structure, [move * leaf / norm for leaf in gradient])
        params = jax.tree.map(np.add, state["params"], along)
        losses.append(step(state | {"params": params}, data)[1]["loss"])
    np.testing.assert_allclose((losses[0] - losses[1]) / 2e-3, norm, rtol=0.01)  # float32's rounding
    step(new, batch(seed=1))
    assert len(traced) == 1


def test_what_is_frozen_keeps_its_weights_and_counts_in_no_norm():
    cfg = small(optim=Optim(lr=0.1, frozen="^image/"))
    state = init(cfg)
    new, found = jax.jit(make_step(cfg))(state, batch())
    assert_equal(new["params"]["image"], state["params"]["image"])
    assert found["grad_norm/image"] == found["update_norm/image"] == 0
    parts = [found[f"grad_norm/{name}"] for name in ("text", "objective")]
    np.testing.assert_allclose(found["grad_norm"], np.hypot(*parts), rtol=1e-6)
    assert found["update_norm/text"] > 0


def test_a_frozen_tower_costs_its_forward_pass_alone():
    cfg, rows = debugrun.config(), 16
    params = jax.eval_shape(lambda: init_state(cfg, 8))["params"]
    inputs = jax.eval_shape(lambda: batch(rows))
    locked = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, frozen="^text/"))
    forward = flops.count(cfg.towers["text"].apply, {"params": params["text"]}, inputs["text"])
    assert model_flops(cfg, params, inputs) - model_flops(locked, params, inputs) == 2 * forward > 0


@pytest.mark.parametrize("implementation", ["dense", "ring", "gather"])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_model_flops_are_those_of_towers_and_loss_however_they_are_computed(implementation, accumulate):
    rows, objective = 64, dataclasses.replace(debugrun.config().objective, implementation=implementation)
    cfg = small(objective=objective, accumulate=accumulate)
    params = jax.eval_shape(lambda: init_state(cfg, 8))["params"]
    towers = 2 * rows * (3 * debug.SIZE**2 + 16) * LINEAR.embed
    with jax.set_mesh(sharding.make_mesh(MeshShape())):
        found = model_flops(cfg, params, jax.eval_shape(lambda: batch(rows)))
    assert found == 3 * (towers + 2 * rows**2 * LINEAR.embed)


def test_the_norm_of_the_update_is_how_far_a_tower_moved():
    cfg = small(optim=Optim(lr=0.1))
    state = init(cfg)
    new, found = jax.jit(make_step(cfg))(state, batch())
    for name in ("image", "text"):
        moved = [
            a - b for a, b in zip(leaves(new["params"][name]), leaves(state["params"][name]), strict=True)
        ]
        norm = np.sqrt(sum(np.sum(leaf.astype(float) ** 2) for leaf in moved))
        np.testing.assert_allclose(found[f"update_norm/{name}"], norm, rtol=1e-4)


def test_an_average_is_kept_beside_the_parameters_and_laid_out_as_they_are():
    cfg = small(optim=Optim(lr=0.1, ema=0.5))
    state = init(cfg)
    assert_equal(state["ema"], state["params"])
    new, _ = jax.jit(make_step(cfg))(state, batch())
    # The decay of the first step is 1 / 10.
    expected = jax.tree.map(lambda old, now: 0.1 * old + 0.9 * now, state["ema"], new["params"])
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-7), new["ema"], expected)
    where = sharding.shardings(sharding.make_mesh(MeshShape(fsdp=8)), state)
    assert where["ema"] == where["params"]


def test_the_best_of_a_metric_that_nobody_writes_is_refused():
    with pytest.raises(ValueError, match=r"checkpoint.best='val/none/r1' is no metric of an evaluator"):
        dataclasses.replace(debugrun.config(), checkpoint=Checkpointing(best="val/none/r1"))


NOISE = {
    "image dropout": small(image=Linear(dropout=0.5)),
    "text dropout": small(text=Linear(dropout=0.5)),
    "colour": small(colour=(Invert(prob=0.5),)),
}


@pytest.mark.parametrize("source", NOISE)
def test_every_step_draws_anew_and_the_same_step_draws_the_same(source):
    cfg, state, data = NOISE[source], first_state(), batch()
    loss = jax.jit(lambda state: make_step(cfg)(state, data)[1]["loss"])
    first = float(loss(state))
    assert float(loss(state)) == first
    second, of_another_run = (loss(state | change) for change in (dict(step=1), dict(key=state["key"] + 1)))
    assert len({first, float(second), float(of_another_run)}) == 3


def test_a_bfloat16_step_is_finite_and_keeps_float32_masters():
    cfg = debug.get_config(dtype="bfloat16")
    # The first rate of the warm-up would be 0.
    new, found = jax.jit(make_step(cfg))(debugrun.state() | {"step": np.int32(1)}, batch())
    assert all(np.isfinite(value) for value in found.values())
    assert found["loss"].dtype == jnp.float32 and found["grad_norm"] > 0
    assert {leaf.dtype for leaf in leaves(new["params"])} == {np.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in leaves(new["params"]))


def test_towers_of_different_embeddings_are_refused():
    with pytest.raises(ValueError, match="image has embed=8, text has embed=9"):
        jax.eval_shape(lambda: init_state(small(text=Linear(embed=9)), 8))


@pytest.mark.parametrize(
    "fields", [dict(steps=0), dict(log_every=0), dict(optim=Optim(warmup_steps=20))], ids=str
)
def test_impossible_values_are_refused(fields):
    with pytest.raises(ValueError, match=r"(steps|log_every)=(0|20)"):
        dataclasses.replace(debugrun.config(), **fields)
