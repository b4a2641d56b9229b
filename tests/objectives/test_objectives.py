"""Objectives: their learned scalars, and what they make of similarities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.kernels import contrastive
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.sigmoid import Sigmoid


def pairs(rows=8, width=16):
    keys = jax.random.split(jax.random.key(0))
    draw = [jax.random.normal(key, (rows, width)) for key in keys]
    image, text = [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in draw]
    return {"image": image, "text": text}


def test_infonce_starts_at_its_initial_scale():
    z = pairs()
    objective = InfoNCE(initial_scale=14.0)
    loss, _ = objective.init_with_output(jax.random.key(0), z, {})
    np.testing.assert_allclose(loss.value, contrastive.infonce(z["image"], z["text"], 14.0), rtol=1e-6)
    np.testing.assert_allclose(loss.metrics["scale"], 14.0, rtol=1e-6)


def test_sigmoid_starts_at_its_initial_scale_and_bias():
    z = pairs()
    loss, variables = Sigmoid().init_with_output(jax.random.key(0), z, {})
    np.testing.assert_allclose(loss.value, contrastive.sigmoid(z["image"], z["text"], 10.0, -10.0), rtol=1e-6)
    assert set(variables["params"]) == {"log_scale", "bias"}


@pytest.mark.parametrize("objective", [InfoNCE(), Sigmoid()], ids=["infonce", "sigmoid"])
def test_learned_scalars_are_strong_float32(objective):
    params = objective.init(jax.random.key(0), pairs(), {})["params"]
    for leaf in jax.tree.leaves(params):
        assert leaf.dtype == jnp.float32 and not leaf.weak_type


@pytest.mark.parametrize(
    "objective, message",
    [
        (InfoNCE(initial_scale=500.0), "initial_scale=500.0 must be positive and at most ceiling=100.0"),
        (Sigmoid(initial_scale=0.0), "initial_scale=0.0 must be positive and at most ceiling=1000.0"),
        (InfoNCE(initial_scale=float("nan")), "initial_scale=nan must be positive"),
        (InfoNCE(ceiling=0.0), "at most ceiling=0.0"),
        (Sigmoid(initial_scale=float("inf"), ceiling=float("inf")), "initial_scale=inf"),
    ],
)
def test_a_scale_that_cannot_start_is_refused(objective, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(objective.init, jax.random.key(0), pairs(), {})


@pytest.mark.parametrize("wanted", [1.0, -1.0])
def test_scale_above_its_ceiling_is_held_and_can_come_back(wanted):
    """Above the ceiling the scale reads as the ceiling; gradients that lead down pass, others do not."""
    z = pairs()
    z["text"] = wanted * z["image"]  # perfect pairs want a higher scale, opposite ones a lower
    objective = InfoNCE(ceiling=20.0)
    params = {"log_scale": jnp.float32(np.log(25.0))}

    def value(params):
        loss = objective.apply({"params": params}, z, {})
        return loss.value, loss.metrics["scale"]

    gradient, scale = jax.grad(value, has_aux=True)(params)
    np.testing.assert_allclose(scale, 20.0, rtol=1e-6)
    if wanted > 0:
        assert gradient["log_scale"] == 0
    else:
        assert gradient["log_scale"] > 0


def test_probabilities_are_those_of_the_objective():
    z = pairs()
    infonce, sigmoid = InfoNCE(initial_scale=14.0), Sigmoid()
    similarities = np.asarray(z["image"] @ z["text"].T)

    def probs(objective):
        variables = objective.init(jax.random.key(0), z, {})
        return objective.apply(variables, z["image"], z["text"], method="probs")

    expected = np.exp(14 * similarities)
    np.testing.assert_allclose(probs(infonce), expected / expected.sum(axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(probs(sigmoid), 1 / (1 + np.exp(10 - 10 * similarities)), rtol=1e-5)


@pytest.mark.parametrize("objective", [InfoNCE(), Sigmoid()], ids=["infonce", "sigmoid"])
def test_objectives_run_under_strict_promotion(objective):
    with jax.numpy_dtype_promotion("strict"):
        loss, _ = objective.init_with_output(jax.random.key(0), pairs(), {})
    assert loss.value.dtype == jnp.float32 and loss.value.shape == ()


@pytest.mark.parametrize("objective", [InfoNCE, Sigmoid])
def test_objectives_take_the_implementation_that_they_are_given(objective):
    with pytest.raises(ValueError, match="implementation='none' is none of"):
        objective(implementation="none").init(jax.random.key(0), pairs(), {})
