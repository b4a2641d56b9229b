"""Objectives: their learned scalars, and what they make of similarities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import config
from mmjax.kernels import contrastive
from mmjax.objectives.distilled import DistilledInfoNCE
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.pairs import Pair, Views
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


THREE = (Pair(), Pair(second="audio", weight=0.5))


def value_of(objective, z, batch):
    variables = objective.init(jax.random.key(0), z, batch)
    return objective.apply(variables, z, batch).value


def with_audio(rows=8):
    return pairs(rows) | {"audio": pairs(rows, 16)["text"][::-1]}


@pytest.mark.parametrize("objective", [InfoNCE, Sigmoid])
def test_several_pairs_of_modalities_are_the_weighted_sum_of_runs_with_one(objective):
    z = with_audio()
    both = value_of(objective(views=Views(pairs=THREE)), z, {})
    alone = [
        value_of(
            objective(views=Views(pairs=(pair,))), {name: z[name] for name in ("image", pair.second)}, {}
        )
        for pair in THREE
    ]
    np.testing.assert_allclose(both, alone[0] + alone[1], rtol=1e-6)


@pytest.mark.parametrize("objective", [InfoNCE, Sigmoid])
def test_examples_without_a_modality_are_as_if_they_were_not_there(objective):
    z, there = with_audio(), np.array([1, 1, 0, 1, 0, 1, 1, 1], bool)
    views = Views(pairs=(Pair(second="audio"),))
    del z["text"]
    masked = value_of(objective(views=views), z, {"present/audio": there})
    without = value_of(objective(views=views), {name: x[there] for name, x in z.items()}, {})
    np.testing.assert_allclose(masked, without, rtol=1e-6)


def test_each_pair_of_modalities_may_learn_its_own_scale():
    objective = InfoNCE(views=Views(pairs=THREE), own_scales=True)
    z = with_audio()
    params = objective.init(jax.random.key(0), z, {})["params"]
    assert set(params) == {"log_scale", "log_scale_image_audio"}
    gradient = jax.grad(lambda params: objective.apply({"params": params}, z, {}).value)(params)
    assert all(g != 0 for g in gradient.values())


def test_prefixes_of_the_embeddings_are_compared_as_embeddings_of_their_own():
    z = pairs()
    unit = {name: x[:, :4] / jnp.linalg.norm(x[:, :4], axis=1, keepdims=True) for name, x in z.items()}
    expected = (value_of(InfoNCE(), z, {}) + value_of(InfoNCE(), unit, {})) / 2
    np.testing.assert_allclose(value_of(InfoNCE(views=Views(widths=(4,))), z, {}), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="are no parts of embeddings of 16"):
        value_of(InfoNCE(views=Views(widths=(16,))), z, {})


def test_a_stopped_modality_gets_no_gradient_and_the_other_the_same():
    z, objective = pairs(), InfoNCE()
    variables = objective.init(jax.random.key(0), z, {})

    def gradient(objective):
        return jax.grad(lambda z: objective.apply(variables, z, {}).value)(z)

    both, one = gradient(objective), gradient(objective.clone(views=Views(stopped=("image",))))
    assert not one["image"].any()
    np.testing.assert_array_equal(one["text"], both["text"])


@pytest.mark.parametrize("objective", [InfoNCE, Sigmoid])
def test_duplicates_are_told_by_the_id_of_the_batch(objective):
    z, ids = pairs(), np.array([0, 0, 1, 2, 3, 4, 5, 6], np.int32)
    plain, masked = value_of(objective(), z, {}), value_of(objective(duplicates="masked"), z, {"id": ids})
    assert masked < plain
    with pytest.raises(ValueError, match="needs 'id' in the batch"):
        value_of(objective(duplicates="masked"), z, {})


def test_a_distilled_objective_mixes_infonce_and_the_teacher_by_its_share():
    z = pairs()
    teacher = {f"teacher/{name}": x for name, x in pairs(width=24).items()}
    plain = value_of(InfoNCE(), z, {})
    taught = contrastive.distill(z["image"], z["text"], 1 / 0.07, *teacher.values(), 100.0)
    mixed = value_of(DistilledInfoNCE(share=0.25), z, teacher)
    np.testing.assert_allclose(mixed, 0.75 * plain + 0.25 * taught, rtol=1e-6)
    with pytest.raises(ValueError, match="teacher's embeddings"):
        value_of(DistilledInfoNCE(), z, {})


def test_an_objective_of_several_pairs_survives_json():
    objective = InfoNCE(views=Views(pairs=THREE, widths=(8,)), decoupled=True)
    assert config.from_json(config.to_json(objective)) == objective


@pytest.mark.parametrize("views", [dict(pairs=()), dict(pairs=(Pair(), Pair())), dict(widths=(0,))])
def test_views_that_make_no_sense_are_refused(views):
    with pytest.raises(ValueError, match="give one or more, each once|must be positive"):
        Views(**views)
