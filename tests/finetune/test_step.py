"""One step of a classification, and many."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import scipy.optimize
import tinyclass
from tinyclass import batch, begun, config, states

from mmjax import optim
from mmjax.data.labels import OneClass, Several
from mmjax.finetune import Task, heads
from mmjax.finetune.tune import Extend, Full, Lora, Part
from mmjax.optim import Constant, Optim
from mmjax.towers import Encoded
from mmjax.towers.extended import Adapters

LABELS = OneClass(names=tinyclass.NAMES)


def equal(one, other):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


def features(params):
    """The tower's embeddings of the batch, in float64."""
    image = (batch()["image"].reshape(24, -1) / 255 - 0.5) / 0.5
    return image @ np.float64(params["kernel"]) + np.float64(params["bias"])


def probe_loss(kernel, bias, z_BE, target_BC, smoothing):
    logits = z_BE @ kernel + bias
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -np.mean(np.sum(((1 - smoothing) * target_BC + smoothing / 3) * log_p, axis=1))


def test_a_head_alone_ends_at_the_minimum_of_the_convex_loss():
    """Smoothed targets have a minimum at finite weights; SciPy finds it in float64."""
    rule = optim.AdamW(b2=0.95)
    cfg = config(tower=dict(tune=Part()), steps=400, task=dict(smoothing=0.2), optim=Optim(rule=rule, lr=0.1))
    (first, *_, last), metrics = states(cfg, 400)
    assert set(first["params"]) == {"head"}
    _, _, fixed = begun(cfg)
    z_BE, target_BC = features(fixed["image"]["head"]), batch()["label/class"].astype(float)

    def loss(flat):
        return probe_loss(flat[:15].reshape(5, 3), flat[15:], z_BE, target_BC, 0.2)

    best = scipy.optimize.minimize(loss, np.zeros(18), tol=1e-10).fun
    np.testing.assert_allclose(metrics[0]["loss"], np.log(3), rtol=1e-6)
    assert best < 1.0
    np.testing.assert_allclose(metrics[-1]["loss"], best, atol=1e-4)
    logits = last["params"]["head"]["class"]["logits"]
    np.testing.assert_allclose(
        probe_loss(logits["kernel"], logits["bias"], z_BE, target_BC, 0.2), best, atol=1e-4
    )


def test_the_tower_waits_until_the_head_has_had_its_steps():
    decaying = Optim(lr=0.05, weight_decay=0.5, schedule=Constant(), ema=0.9)
    found, _ = states(config(tower=dict(frozen_steps=3), optim=decaying), 5)
    towers, kernels = ([s["params"][name] for s in found] for name in ("image", "head"))
    assert all(equal(tower, towers[0]) for tower in towers[:4])
    assert not equal(towers[4], towers[3])
    assert not any(equal(*pair) for pair in itertools.pairwise(kernels))
    averages = (found[3]["ema"]["image"], towers[0])
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-6), *averages)


def test_only_low_rank_factors_and_the_head_are_in_the_state():
    cfg = config(tower=dict(tune=Lora(pattern="head/kernel$", rank=2)))
    (first, *_, last), metrics = states(cfg, 5)
    _, _, fixed = begun(cfg)
    assert set(first["params"]) == {"lora", "head"} and set(fixed) == {"image"}
    moments = [x.shape for x in jax.tree.leaves(first["opt_state"]) if np.ndim(x)]
    assert sorted(moments) == sorted(2 * [x.shape for x in jax.tree.leaves(first["params"])])
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert not equal(last["params"]["lora"], first["params"]["lora"])


@pytest.mark.parametrize(
    "tune",
    [
        Full(),
        Part(pattern="norm/"),
        Lora(pattern="kernel$"),
        Extend(extras=(Adapters(width=2, parts="head$"),)),
    ],
    ids=lambda tune: type(tune).__name__,
)
def test_running_statistics_follow_the_batches_where_the_whole_tower_is_trained(tune):
    """Otherwise they stay, and the tower normalises in training as it will in evaluation."""
    cfg = config(tower=dict(tune=tune, module=tune.module(tinyclass.Normed())))
    network, state, fixed = begun(cfg)
    params = network.params(state["params"], fixed)
    params["head"]["class"]["logits"]["kernel"] = np.random.default_rng(3).normal(size=(5, 3))
    inputs = {"image": network.normalised("image", batch()["image"])}
    trained = network(params, inputs, key=jax.random.key(0), learning={"image"})
    logits = (found.logits["class"] for found in (trained, network(params, inputs)))
    follow = isinstance(tune, Full)
    assert np.allclose(*logits, atol=1e-6) != follow
    (first, last), _ = states(cfg, 1)
    norms = (network.params(s["params"], fixed)["image"]["norm"] for s in (first, last))
    assert equal(*({name: norm[name] for name in ("mean", "var")} for norm in norms)) != follow


def test_rare_classes_weigh_more_as_their_weights_say():
    cfg, weight_C = config(tower=dict(tune=Part())), np.array([3.0, 1.0, 0.5], np.float32)
    _, ((metrics),) = states(cfg, 1, weight_C)
    # A head of zeros says 1/3 of every class.
    expected = np.log(3) * np.mean(batch()["label/class"] @ weight_C)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)


def test_an_attentive_head_sees_a_set_of_tokens_and_no_padding():
    head = heads.Attentive(heads=2, classes=3)
    rng = np.random.default_rng(0)
    tokens_BSD = rng.normal(size=(2, 6, 8)).astype(np.float32)
    lengths_B = np.array([6, 4])

    def logits(params, tokens_BSD, lengths_B):
        return head.apply({"params": params}, Encoded(tokens_BSD[:, 0], tokens_BSD), lengths_B)

    params = head.init(jax.random.key(0), Encoded(tokens_BSD[:, 0], tokens_BSD), lengths_B)["params"]
    params["logits"]["kernel"] = rng.normal(size=(8, 3)).astype(np.float32)
    found = logits(params, tokens_BSD, lengths_B)
    order = [2, 0, 3, 1, 5, 4]
    np.testing.assert_allclose(logits(params, tokens_BSD[:, order], lengths_B), found, rtol=1e-5, atol=1e-6)
    other = np.where(np.arange(6)[:, None] < lengths_B[:, None, None], tokens_BSD, 99.0)
    np.testing.assert_array_equal(logits(params, other, lengths_B), found)
    assert np.abs(logits(params, tokens_BSD, np.array([6, 6])) - found)[1].max() > 1e-3


def test_the_loss_of_several_tasks_is_the_weighted_sum_of_each_alone():
    names = {"one": 0.5, "other": 2.0}
    tasks = {name: Task(head=heads.Linear(classes=3), labels=LABELS, weight=w) for name, w in names.items()}
    tasks["other"] = dataclasses.replace(tasks["other"], smoothing=0.3)
    found, metrics = states(config(tasks=tasks), 5)
    assert set(found[0]["params"]["head"]) == set(names)
    for each in metrics:
        np.testing.assert_allclose(each["loss"], 0.5 * each["one/loss"] + 2 * each["other/loss"], rtol=1e-6)
        assert {"one/accuracy", "other/accuracy"} <= each.keys()
    alone = {name: states(config(tasks={name: task}), 1)[1][0] for name, task in tasks.items()}
    for name in names:
        np.testing.assert_allclose(metrics[0][f"{name}/loss"], alone[name][f"{name}/loss"], rtol=1e-6)


def test_several_classes_are_learned_each_apart():
    cfg = config(task=dict(labels=Several(names=tinyclass.NAMES)), tower=dict(tune=Part()))
    _, metrics = states(dataclasses.replace(cfg, steps=30), 30)
    np.testing.assert_allclose(metrics[0]["loss"], np.log(2), rtol=1e-6)
    assert metrics[-1]["loss"] < 0.95 * metrics[0]["loss"]
