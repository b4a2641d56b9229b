"""Pairs of a batch for image-text matching."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax.data.labels import Pairs
from mmjax.finetune import heads
from mmjax.finetune.matching import Matching, Paired, similarities
from mmjax.model import unit

B, E = 12, 8


def batch(seed=0):
    image_key, text_key = jax.random.split(jax.random.key(seed))
    id_B = np.array([0, 1, 2, 3, 0, 5, 6, 7, 2, 9, 10, 0])
    return unit(jax.random.normal(image_key, (B, E))), unit(jax.random.normal(text_key, (B, E))), id_B


@pytest.mark.parametrize("seed", range(20))
def test_own_pairs_come_first_and_no_wrong_pair_is_of_one_id(seed):
    image_BE, text_BE, id_B = batch(seed)
    pairs = Matching(scale=30.0).paired(jax.random.key(seed), image_BE, text_BE, id_B)
    same_P = id_B[pairs.image_P] == id_B[pairs.text_P]
    np.testing.assert_array_equal(same_P, pairs.target_P)
    np.testing.assert_array_equal(pairs.image_P[:B], np.arange(B))
    np.testing.assert_array_equal(pairs.text_P[:B], np.arange(B))
    # Every picture has one wrong text, and every text one wrong picture.
    np.testing.assert_array_equal(pairs.image_P[B : 2 * B], np.arange(B))
    np.testing.assert_array_equal(pairs.text_P[2 * B :], np.arange(B))
    np.testing.assert_array_equal(pairs.weight_P, 1)


@pytest.mark.parametrize("scale", [0.0, 4.0])
def test_wrong_pairs_are_drawn_in_proportion_to_the_exponential_of_similarity(scale):
    image_BE, text_BE, id_B = batch()
    weight_BB = np.exp(scale * np.asarray(image_BE) @ np.asarray(text_BE).T)
    weight_BB[id_B[:, None] == id_B] = 0
    draws = 4_000
    drawn = jax.vmap(lambda key: Matching(scale=scale).paired(key, image_BE, text_BE, id_B))(
        jax.random.split(jax.random.key(1), draws)
    )
    for axis, found in ((1, drawn.text_P[:, B : 2 * B]), (0, drawn.image_P[:, 2 * B :])):
        share_BB = np.stack([np.bincount(found[:, i], minlength=B) for i in range(B)], axis=1 - axis) / draws
        wanted_BB = weight_BB / weight_BB.sum(axis=axis, keepdims=True)
        # Five standard deviations of a share.
        assert (np.abs(share_BB - wanted_BB) <= 5 * np.sqrt(wanted_BB / draws) + 1e-9).all()


def test_a_batch_of_one_id_has_no_wrong_pairs_and_a_finite_loss():
    image_BE, text_BE, _ = batch()
    task = Matching()
    pairs = task.paired(jax.random.key(0), image_BE, text_BE, np.zeros(B, int))
    assert pairs.weight_P.tolist() == [1] * B + [0] * 2 * B
    logits_P2 = jnp.tile(jnp.array([0.0, 2.0]), (3 * B, 1))
    np.testing.assert_allclose(task.loss(logits_P2, pairs), np.log1p(np.exp(-2.0)), rtol=1e-6)
    assert task.accuracy(logits_P2, pairs) == 1


def test_the_loss_is_the_mean_cross_entropy_of_yes_and_no():
    logits_P2 = jnp.array([[0.0, 1.0], [0.0, 1.0], [2.0, 0.0]])
    pairs = Paired(None, None, jnp.array([1.0, 0.0, 0.0]), jnp.array([1.0, 1.0, 0.0]))
    wanted = (np.log1p(np.exp(-1.0)) + np.log1p(np.exp(1.0))) / 2
    np.testing.assert_allclose(Matching().loss(logits_P2, pairs), wanted, rtol=1e-6)
    assert Matching().accuracy(logits_P2, pairs) == 0.5


def test_no_gradient_flows_through_the_choice():
    image_BE, text_BE, id_B = batch()

    def of(image_BE):
        logits_BB = similarities(14.0, image_BE, text_BE, id_B)
        return jnp.sum(jnp.where(jnp.isfinite(logits_BB), logits_BB, 0))

    assert not np.asarray(jax.grad(of)(image_BE)).any()


def test_the_loss_falls_where_pairs_can_be_told_apart():
    """Picture and text of a pair have one embedding, which a bilinear form of the two can see."""
    _, text_BE, id_B = batch()
    text_BE = text_BE[np.unique(id_B, return_inverse=True)[1]]
    task, tx = Matching(), optax.adam(0.05)
    params = {"form": jnp.zeros((E, E)), "bias": jnp.zeros(())}

    def value(params, key):
        pairs = task.paired(key, text_BE, text_BE, id_B)
        alike_P = jnp.einsum("pe,ef,pf->p", text_BE[pairs.image_P], params["form"], text_BE[pairs.text_P])
        return task.loss(jnp.stack([jnp.zeros_like(alike_P), alike_P + params["bias"]], axis=1), pairs)

    @jax.jit
    def step(params, state, key):
        loss, grads = jax.value_and_grad(value)(params, key)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    state, losses = tx.init(params), []
    for i in range(200):
        params, state, loss = step(params, state, jax.random.key(i))
        losses.append(float(loss))
    np.testing.assert_allclose(losses[0], np.log(2), rtol=1e-6)
    assert np.mean(losses[-10:]) < 0.2


def test_wrong_fields_are_refused():
    with pytest.raises(ValueError, match="head.classes=5 must be 2"):
        Matching(head=heads.Linear(classes=5))
    with pytest.raises(ValueError, match="scale=-1 must be 0 or more"):
        Matching(scale=-1)
    with pytest.raises(ValueError, match="weight=0 of a task's loss must be positive"):
        Matching(weight=0)


def test_every_example_of_a_source_is_a_pair():
    labels = Pairs()
    assert labels.names == ("no", "yes") and labels.reader(None)({}).tolist() == [0, 1]
