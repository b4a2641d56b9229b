"""CLIP's ResNet, and batch norm as part of a pure tower."""

import dataclasses

import debugrun
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mmjax.contrastive.step import init_state, make_step
from mmjax.optim import Optim
from mmjax.towers import Encoded
from mmjax.towers.batch_norm import BatchNorm, apply_in_training, with_statistics
from mmjax.towers.resnet import ResNet

TOWER = ResNet(depths=(1, 1, 1, 1), width=8, embed=16)
X = np.random.default_rng(0).normal(2.0, 3.0, (4, 5, 6, 3)).astype(np.float32)


def statistics_of(x, running, momentum=0.1):
    mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2), ddof=1)
    return {
        name: (1 - momentum) * running[name] + momentum * new for name, new in (("mean", mean), ("var", var))
    }


def norm_params(seed=1):
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(0.5, 2, 3).astype(np.float32) for name in ("scale", "bias", "mean", "var")}


def test_training_normalises_by_the_batch_and_evaluation_by_the_running_statistics():
    params = norm_params()
    quiet = BatchNorm().apply({"params": params}, X, train=False)
    noisy, found = BatchNorm().apply({"params": params}, X, train=True, mutable=["statistics"])
    for y, mean, var in (
        (quiet, params["mean"], params["var"]),
        (noisy, X.mean(axis=(0, 1, 2)), X.var(axis=(0, 1, 2))),
    ):
        expected = (X - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    for name, expected in statistics_of(X, params).items():
        np.testing.assert_allclose(found["statistics"][name], expected, rtol=1e-5)


def test_where_nobody_keeps_new_statistics_training_normalises_by_the_running_ones():
    params = norm_params()
    quiet = BatchNorm().apply({"params": params}, X, train=False)
    np.testing.assert_array_equal(BatchNorm().apply({"params": params}, X, train=True), quiet)
    tower = {"params": {"norm": params, "head": {"kernel": np.eye(3, 8), "bias": np.zeros(8)}}}
    inputs = X.reshape(-1, 1, 1, 3)
    still, none = apply_in_training(Normed(), tower["params"], inputs, jax.random.key(0), follow=False)
    assert none == {}
    np.testing.assert_array_equal(still.embedding_BE, Normed().apply(tower, inputs).embedding_BE)


def test_no_gradient_reaches_the_running_statistics():
    def loss(params):
        y, _ = BatchNorm().apply({"params": params}, X, train=True, mutable=["statistics"])
        return jnp.sum(y**3)

    gradient = jax.grad(loss)(norm_params())
    assert not gradient["mean"].any() and not gradient["var"].any()
    assert gradient["scale"].all() and gradient["bias"].all()


def test_statistics_take_their_place_among_parameters_and_leave_the_rest():
    params = {"a": {"kernel": 1, "mean": 2}, "b": {"c": {"var": 3}}, "d": 4}
    assert with_statistics(params, {"a": {"mean": 5}, "b": {"c": {"var": 6}}}) == {
        "a": {"kernel": 1, "mean": 5},
        "b": {"c": {"var": 6}},
        "d": 4,
    }


class Normed(nn.Module):
    """A tower of batch norm and one product, which compiles in no time."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, inputs, *, train=False):
        x_B11D = jnp.reshape(inputs, (len(inputs), 1, 1, -1))[..., :16].astype(jnp.float32)
        x_B11D = BatchNorm(name="norm")(x_B11D, train=train)
        return Encoded(nn.Dense(8, name="head")(x_B11D[:, 0, 0]), x_B11D[:, 0])


def test_a_step_of_training_moves_the_running_statistics_with_the_weights():
    cfg = debugrun.config()
    towers = {"image": Normed(), "text": Normed()}
    cfg = dataclasses.replace(cfg, towers=towers, optim=Optim(lr=0.1))
    before = jax.jit(lambda: init_state(cfg, 8))()
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8),
        "text": rng.integers(2, 300, (16, 16), dtype=np.int32),
        "id": np.arange(16, dtype=np.int32),
    }
    after, _ = jax.jit(make_step(cfg))(before, batch)
    pixels = (batch["image"].reshape(16, 1, 1, -1)[..., :16] / 255 - 0.5) / 0.5
    for modality, x in (("image", pixels), ("text", batch["text"].reshape(16, 1, 1, -1))):
        was, new = (state["params"][modality]["norm"] for state in (before, after))
        for name, expected in statistics_of(x, was).items():
            np.testing.assert_allclose(new[name], expected, rtol=1e-4)
        assert not np.array_equal(new["bias"], was["bias"])


def test_the_picture_shrinks_by_32():
    image = np.zeros((1, 64, 96, 3), np.float32)
    out = jax.eval_shape(lambda: TOWER.init_with_output(jax.random.key(0), image)[0])
    assert out.tokens_BSD.shape == (1, 2 * 3, 256) and out.embedding_BE.shape == (1, 16)
    with pytest.raises(ValueError, match="48x64 pixels does not divide by .* multiples of 32"):
        jax.eval_shape(TOWER.init, jax.random.key(0), np.zeros((1, 48, 64, 3)))
