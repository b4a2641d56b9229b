"""Pairs of a batch for image-text matching."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tinyclass
from flax import linen as nn

from mmjax.data.tokenizers.utf8 import Bytes
from mmjax.finetune import Backbone, Task, heads
from mmjax.finetune.classify import model_flops
from mmjax.finetune.fusion import Fused
from mmjax.finetune.matching import Matching, Paired, Pairs, similarities
from mmjax.finetune.network import Network
from mmjax.finetune.setup import shapes_of
from mmjax.finetune.step import make_step
from mmjax.finetune.tune import Part
from mmjax.model import unit
from mmjax.optim import Constant, Optim
from mmjax.towers import Encoded

B, E = 12, 8
ONES = np.ones(2, np.float32)


def batch(seed=0):
    image_key, text_key = jax.random.split(jax.random.key(seed))
    id_B = np.array([0, 1, 2, 3, 0, 5, 6, 7, 2, 9, 10, 0])
    return unit(jax.random.normal(image_key, (B, E))), unit(jax.random.normal(text_key, (B, E))), id_B


def drawn(task, key, image_BE, text_BE, id_B):
    # Of any length: cosines count.
    encoded = {"image": Encoded(3 * image_BE, None), "text": Encoded(0.5 * text_BE, None)}
    return task.paired(key, encoded, id_B)


@pytest.mark.parametrize("seed", range(20))
def test_own_pairs_come_first_and_no_wrong_pair_is_of_one_id(seed):
    image_BE, text_BE, id_B = batch(seed)
    pairs = drawn(Matching(scale=30.0), jax.random.key(seed), image_BE, text_BE, id_B)
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
    pairs = jax.vmap(lambda key: drawn(Matching(scale=scale), key, image_BE, text_BE, id_B))(
        jax.random.split(jax.random.key(1), draws)
    )
    for axis, found in ((1, pairs.text_P[:, B : 2 * B]), (0, pairs.image_P[:, 2 * B :])):
        share_BB = np.stack([np.bincount(found[:, i], minlength=B) for i in range(B)], axis=1 - axis) / draws
        wanted_BB = weight_BB / weight_BB.sum(axis=axis, keepdims=True)
        # Five standard deviations of a share.
        assert (np.abs(share_BB - wanted_BB) <= 5 * np.sqrt(wanted_BB / draws) + 1e-9).all()


def test_a_batch_of_one_id_has_no_wrong_pairs_and_a_finite_loss():
    image_BE, text_BE, _ = batch()
    task = Matching()
    pairs = drawn(task, jax.random.key(0), image_BE, text_BE, np.zeros(B, int))
    assert pairs.weight_P.tolist() == [1] * B + [0] * 2 * B
    logits_P2 = jnp.tile(jnp.array([0.0, 2.0]), (3 * B, 1))
    np.testing.assert_allclose(task.loss(logits_P2, pairs, ONES), np.log1p(np.exp(-2.0)), rtol=1e-6)
    assert task.accuracy(logits_P2, pairs) == 1


def test_the_loss_is_the_mean_cross_entropy_of_yes_and_no():
    logits_P2 = jnp.array([[0.0, 1.0], [0.0, 1.0], [2.0, 0.0]])
    pairs = Paired(None, None, jnp.array([1.0, 0.0, 0.0]), jnp.array([1.0, 1.0, 0.0]))
    wanted = (np.log1p(np.exp(-1.0)) + np.log1p(np.exp(1.0))) / 2
    np.testing.assert_allclose(Matching().loss(logits_P2, pairs, ONES), wanted, rtol=1e-6)
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
        pairs = drawn(task, key, text_BE, text_BE, id_B)
        alike_P = jnp.einsum("pe,ef,pf->p", text_BE[pairs.image_P], params["form"], text_BE[pairs.text_P])
        return task.loss(jnp.stack([jnp.zeros_like(alike_P), alike_P + params["bias"]], axis=1), pairs, ONES)

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


class Words(nn.Module):
    """An embedding of the first token."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens_BS, *, train=False):
        x_BSD = nn.Embed(B, tinyclass.EMBED, name="pieces")(tokens_BS)
        return Encoded(x_BSD[:, 0], x_BSD)


class Product(nn.Module):
    """What picture and text have in common."""

    @nn.compact
    def __call__(self, encoded, lengths, *, train=False):
        x_BE = encoded["image"].embedding_BE * encoded["text"].embedding_BE
        return Fused(Encoded(x_BE, x_BE[:, None]), None)


def both(**fields):
    """A finetune of two towers, which asks for a class of every example and whether pairs match."""
    return tinyclass.config(
        towers={
            "image": Backbone(module=tinyclass.Linear()),
            "text": Backbone(module=Words(), tokenizer=Bytes(length=2)),
        },
        fusion=Product(),
        tasks={"class": tinyclass.config().tasks["class"], "match": Matching(scale=1.0)},
        **fields,
    )


def texts():
    """A batch whose pictures and texts tell which row they are."""
    tokens_BS = np.stack([np.arange(B), np.zeros(B)], axis=1).astype(np.int32)
    return {
        **tinyclass.batch(B),
        "text": tokens_BS,
        "label/match": np.tile(np.array([0, 1], np.uint8), (B, 1)),
    }


def test_a_finetune_learns_to_match_beside_another_task():
    cfg = both(optim=Optim(lr=0.05, schedule=Constant()), steps=150)
    network, state, fixed = tinyclass.begun(cfg)
    weights = {name: np.ones(len(task.labels.names), np.float32) for name, task in cfg.tasks.items()}
    step, metrics = jax.jit(make_step(cfg, network, weights)), []
    for _ in range(cfg.steps):
        state, found = step(state, texts(), fixed)
        metrics.append(jax.device_get(found))
    # All logits are 0 at first.
    np.testing.assert_allclose(metrics[0]["match/loss"], np.log(2), rtol=1e-6)
    np.testing.assert_allclose(metrics[0]["loss"], np.log(2) + np.log(3), rtol=1e-6)
    assert metrics[-1]["match/loss"] < 0.1 and metrics[-1]["match/accuracy"] > 0.95
    assert metrics[-1]["class/accuracy"] > 0.9


def test_evaluation_judges_the_pairs_that_it_is_given_and_training_the_pairs_it_draws():
    cfg = both()
    network, state, fixed = tinyclass.begun(cfg)
    params, batch = network.params(state["params"], fixed), texts()
    inputs = {"image": network.normalised("image", batch["image"]), "text": batch["text"]}
    assert network(params, inputs).logits["match"].shape == (B, 2)
    pair = {"match": functools.partial(cfg.tasks["match"].paired, id_B=batch["id"])}
    found = network(params, inputs, key=jax.random.key(0), pair=pair)
    assert found.logits["match"].shape == (3 * B, 2) and found.logits["class"].shape == (B, 3)
    pairs = found.pairs["match"]
    one = {"image": inputs["image"][pairs.image_P], "text": inputs["text"][pairs.text_P]}
    np.testing.assert_allclose(network(params, one).logits["match"], found.logits["match"], atol=1e-6)


@pytest.mark.parametrize("still", [False, True], ids=["trained", "as they are"])
def test_the_operations_of_a_step_are_those_of_all_its_pairs(still):
    cfg = both()
    if still:
        towers = {name: dataclasses.replace(tower, tune=Part()) for name, tower in cfg.towers.items()}
        cfg = dataclasses.replace(cfg, towers=towers)
    network, rows, width = Network.of(cfg), cfg.data.batch_size, tinyclass.EMBED
    tower = 2 * rows * 3 * tinyclass.SIZE**2 * width  # a table of words has no product
    heads_ = 2 * rows * width * 3 + 2 * 3 * rows * width * 2  # three classes of a row; three pairs of a row
    drawing = 2 * rows**2 * width
    expected = (1 if still else 3) * tower + 3 * heads_ + drawing
    assert model_flops(cfg, network, shapes_of(cfg, network)) == expected


def test_a_matching_task_has_what_a_finetune_asks_of_every_task():
    of_classes = {"smoothing", "balance"}
    public = {name for name in dir(Task()) if not name.startswith("_")}
    assert public - of_classes <= set(dir(Matching()))


def test_matching_needs_pictures_and_texts():
    with pytest.raises(ValueError, match=r"tasks.m matches pictures and texts, but towers=\['image'\]"):
        tinyclass.config(tasks={"m": Matching()})
