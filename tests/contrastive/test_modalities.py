"""Runs of any set of modalities: what is compared, what is missing, and what two of them do not notice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import threefold
import tinyclip
from threefold import PAIRS, SAMPLES, VIEWS, WORDS, batch, taught

import mmjax
from mmjax import metrics
from mmjax.contrastive import modalities
from mmjax.contrastive.loss import embed, named_keys
from mmjax.contrastive.step import init_state, make_step
from mmjax.data import pipeline
from mmjax.data.tokenizers import Tokenizer
from mmjax.objectives.distilled import DistilledInfoNCE
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.pairs import Pair, Views
from mmjax.objectives.sigmoid import Sigmoid


def state(cfg):
    return jax.device_get(jax.jit(lambda: init_state(cfg, 8))())


def infonce(scale, x, y):
    logits = scale * np.float64(x) @ np.float64(y).T
    return np.mean([np.log(np.exp(s).sum(axis=1)) - np.diagonal(s) for s in (logits, logits.T)])


def test_three_modalities_train_on_eight_devices_where_any_may_be_missing(tmp_path):
    cfg = threefold.config(objective=InfoNCE(initial_scale=10.0, views=VIEWS, duplicates="masked"))
    cfg.run(tmp_path)
    found = [line for line in metrics.read(tmp_path / "metrics.jsonl") if "train/loss" in line]
    assert found[-1]["train/loss"] < 0.5 * found[0]["train/loss"]
    model = mmjax.load(tmp_path, packages=("threefold",))
    source = threefold.Animals(lacking=False)
    sounds = np.stack([source[1000 + i]["sound"] for i in range(64)])
    z_sound, z_text = model.embed["sound"](sounds), model.embed["text"](WORDS)
    nearest = (z_sound @ z_text.T).argmax(axis=1)
    # A dozen batches after chance (1 in 8): tones with noise are known by their names.
    assert np.mean(nearest == np.arange(1000, 1064) % len(WORDS)) > 0.9


def test_the_loss_is_the_weighted_sum_over_pairs_of_those_examples_that_have_both():
    cfg, data = threefold.config(), batch()
    params = state(cfg)["params"]
    (value, found), _ = tinyclip.value_and_grad(cfg, params, data, jax.random.key(1))
    expected = 0.0
    for pair in PAIRS:
        there = data[f"present/{pair.first}"] & data[f"present/{pair.second}"]
        assert 0 < there.sum() < len(there)
        alone = infonce(10.0, found.z[pair.first][there], found.z[pair.second][there])
        np.testing.assert_allclose(found.metrics[f"{pair.name}/loss"], alone, rtol=1e-5)
        expected += pair.weight * alone
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    both = data["present/image"] & data["present/text"]
    similarity = np.sum(found.z["image"] * found.z["text"], axis=1)[both].mean()
    np.testing.assert_allclose(found.metrics["positive"], similarity, rtol=1e-4)


@pytest.mark.parametrize(
    ("objective", "accumulate"),
    [
        (InfoNCE, 2),
        (Sigmoid, 1),
        pytest.param(InfoNCE, 1, marks=pytest.mark.slow),
        pytest.param(Sigmoid, 2, marks=pytest.mark.slow),
    ],
)
def test_what_stands_in_for_something_missing_changes_nothing_and_learns_nothing(objective, accumulate):
    cfg = threefold.config(
        hard_texts=2, objective=objective(initial_scale=10.0, views=VIEWS), accumulate=accumulate
    )
    data, params = batch(hard_texts=2), state(cfg)["params"]
    rng, other = np.random.default_rng(0), dict(data)
    for name in ("image", "text", "sound", "hard_text"):
        there = data[f"present/{name}"]
        noise = rng.integers(1, 200, data[name].shape).astype(data[name].dtype)
        other[name] = np.where(
            there.reshape(there.shape + (1,) * (noise.ndim - there.ndim)), data[name], noise
        )
        assert not np.array_equal(other[name], data[name])
    key = jax.random.key(1)
    one, two = (tinyclip.value_and_grad(cfg, params, each, key) for each in (data, other))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert all(np.any(leaf) for name in ("image", "text", "sound") for leaf in jax.tree.leaves(one[1][name]))


def test_health_is_that_of_the_pairs_that_are_there():
    cfg, data = threefold.config(log_every=1), batch()
    first = state(cfg)
    whole = jax.jit(make_step(cfg))(first, data)[1]
    both = np.flatnonzero(data["present/image"] & data["present/text"])
    alone = jax.jit(make_step(cfg))(first, {name: rows[both] for name, rows in data.items()})[1]
    for name in ("margin", "alignment", "uniformity", "rank_image", "rank_text", "gap", "entropy"):
        np.testing.assert_allclose(whole[name], alone[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_further_modality_changes_no_draw_of_pictures_and_texts():
    cfg = threefold.config(dropout=0.5, lacking=False)
    two = dataclasses.replace(
        cfg, towers={name: cfg.towers[name] for name in ("image", "text")}, objective=InfoNCE()
    )
    with_sound, without = state(cfg), state(two)
    jax.tree.map(
        np.testing.assert_array_equal,
        [with_sound["params"][name] for name in ("image", "text")] + [with_sound["key"]],
        [without["params"][name] for name in ("image", "text")] + [without["key"]],
    )
    key, data, params = jax.random.key(3), batch(lacking=False), with_sound["params"]
    three, pair = (embed(c, params, data, named_keys(c, key))[0] for c in (cfg, two))
    for name in pair:
        np.testing.assert_array_equal(three[name], pair[name])
    # The third draws for itself.
    again = embed(cfg, params, data, named_keys(cfg, jax.random.key(4)))[0]
    assert not np.allclose(again["sound"], three["sound"])


def test_hard_texts_are_negatives_of_their_own_picture():
    cfg = threefold.config(lacking=False, hard_texts=2, objective=InfoNCE(initial_scale=10.0, views=VIEWS))
    data, params = batch(lacking=False, hard_texts=2), state(cfg)["params"]
    (value, found), _ = tinyclip.value_and_grad(cfg, params, data, jax.random.key(1))
    tower = {"params": params["text"]}
    hard = cfg.towers["text"].apply(tower, data["hard_text"].reshape(-1, 5)).embedding_BE
    hard = np.float64(hard / jnp.linalg.norm(hard, axis=1, keepdims=True)).reshape(32, 2, -1)
    expected = 0.0
    for pair in PAIRS:
        x, y = np.float64(found.z[pair.first]), np.float64(found.z[pair.second])
        logits = 10.0 * x @ y.T
        rows, columns = np.exp(logits).sum(axis=1), np.exp(logits).sum(axis=0)
        if pair.second == "text":
            rows += (np.exp(10.0 * np.einsum("be,bke->bk", x, hard)) * data["present/hard_text"]).sum(axis=1)
        expected += pair.weight * np.mean(np.log(rows) + np.log(columns) - 2 * np.diagonal(logits)) / 2
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def first_loss(cfg):
    """(loss, embeddings, batch) of a config's first batch as its stream gives it."""
    stream = pipeline.batches(cfg.data, Tokenizer(b"", cfg.tokenizer), modalities=cfg.towers)
    data = next(stream)
    (value, found), _ = tinyclip.value_and_grad(cfg, state(cfg)["params"], data, jax.random.key(1))
    return value, found.z, data


def test_a_teachers_embeddings_come_from_the_source_and_count_where_all_four_are_there():
    cfg = taught(
        DistilledInfoNCE(infonce=InfoNCE(initial_scale=10.0), share=1.0), "teacher/image", "teacher/text"
    )
    value, z, data = first_loss(cfg)
    there = data["present/image"] & data["present/text"]
    assert 0 < there.sum() < len(there)
    expected = 0.0
    for own, other in (("image", "text"), ("text", "image")):
        teacher = 100.0 * np.float64(data[f"teacher/{own}"]) @ np.float64(data[f"teacher/{other}"]).T
        target = scipy.special.softmax(teacher[there][:, there], axis=1)
        student = 10.0 * np.float64(z[own][there]) @ np.float64(z[other][there]).T
        expected -= np.mean(np.sum(target * scipy.special.log_softmax(student, axis=1), axis=1)) / 2
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_a_label_of_the_source_says_what_is_positive():
    cfg = taught(InfoNCE(initial_scale=10.0, duplicates="positives", duplicates_by="half"), "half")
    value, z, data = first_loss(cfg)
    there = data["present/image"] & data["present/text"]
    alike = (data["half"][:, None] == data["half"])[there][:, there]
    logits = 10.0 * np.float64(z["image"][there]) @ np.float64(z["text"][there]).T
    logs = [scipy.special.log_softmax(s, axis=1) for s in (logits, logits.T)]
    expected = -np.mean([np.mean(np.sum(log * alike, axis=1) / alike.sum(axis=1)) for log in logs])
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_micro_batches_of_three_modalities_and_hard_texts_give_the_gradient_of_the_batch():
    cfg = threefold.config(dropout=0.3, hard_texts=2)
    data, params = batch(hard_texts=2), state(cfg)["params"]
    key = jax.random.key(5)
    (value, found), gradient = tinyclip.value_and_grad(cfg, params, data, key)
    parts = dataclasses.replace(cfg, accumulate=4)
    (by_parts, found_by_parts), gradient_by_parts = tinyclip.value_and_grad(parts, params, data, key)
    np.testing.assert_allclose(by_parts, value, rtol=1e-6)
    assert found.z.keys() == {"image", "text", "sound", "hard_text"}
    for name in found.z:
        np.testing.assert_allclose(found_by_parts.z[name], found.z[name], atol=1e-6)
    for name in gradient:
        assert tinyclip.distance(gradient_by_parts[name], gradient[name]) < 2e-6, name


def test_sounds_and_texts_need_no_pictures_and_pictures_and_sounds_no_texts(tmp_path):
    cfg = threefold.config(steps=3)
    for towers, field in ((("text", "sound"), "preprocess"), (("image", "sound"), "tokenizer")):
        less = dataclasses.replace(
            cfg,
            towers={name: cfg.towers[name] for name in towers},
            data=dataclasses.replace(cfg.data, may_lack=towers),
            objective=InfoNCE(views=Views(pairs=(Pair(first=towers[0], second=towers[1]),))),
            **{field: None},
        )
        less.run(tmp_path / field)
        model = mmjax.load(tmp_path / field, packages=("threefold",))
        assert set(model.embed) == {*towers, "probs"}
        assert model.embed["sound"](np.zeros((3, SAMPLES), np.float32)).shape == (3, threefold.WIDTH)


def test_a_batch_is_as_its_shapes_say():
    cfg = threefold.config(hard_texts=2)
    shapes = modalities.batch_shapes(cfg, 32)
    found = {name: (rows.shape, rows.dtype) for name, rows in batch(hard_texts=2).items()}
    assert found == {name: (s.shape, s.dtype) for name, s in shapes.items()}
