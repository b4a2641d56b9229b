"""What the optimizer does around its rule."""

import dataclasses
import math

import jax
import numpy as np
import optax
import pytest

from mmjax import config, optim
from mmjax.optim import Constant, Multiplier, Optim


def params():
    rng = np.random.default_rng(0)
    shapes = {
        "up": {"kernel": (4, 3), "bias": (3,)},
        "pieces": {"embedding": (5, 2)},
        "norm": {"scale": (4,)},
    }
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def updates(config, p, gradients):
    """Those of every step."""
    tx = optim.make(config, 9)
    state, update = tx.init(p), jax.jit(tx.update)
    for grads in gradients:
        found, state = update(grads, state, p)
        yield found


def test_gradients_are_clipped_by_the_norm_of_all_that_is_trained():
    p, rng = params(), np.random.default_rng(1)
    gradients = [
        jax.tree.map(lambda leaf, s=s: (s * rng.normal(size=leaf.shape)).astype(np.float32), p)
        for s in (0.1, 1.0, 3.0, 0.3, 2.0)
    ]
    trained = [jax.tree.leaves({**grads, "norm": {}}) for grads in gradients]
    norms = [math.sqrt(sum((g**2).sum() for g in leaves)) for leaves in trained]
    assert min(norms) < 3 < max(norms)
    shrunk = [
        jax.tree.map(lambda g, n=n: np.float32(min(1, 3 / n)) * g, grads)
        for grads, n in zip(gradients, norms, strict=True)
    ]
    clipped = Optim(lr=0.1, frozen="^norm/", clip=3.0)
    free = dataclasses.replace(clipped, clip=None)
    for one, other in zip(updates(clipped, p, gradients), updates(free, p, shrunk), strict=True):
        jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-7), one, other)


def test_a_step_without_gradient_shrinks_exactly_the_parameters_that_the_pattern_names():
    config = Optim(lr=0.5, schedule=Constant(), weight_decay=0.1, decayed=r"up/")
    p = params()
    (step,) = updates(config, p, [jax.tree.map(np.zeros_like, p)])
    new = optax.apply_updates(p, step)
    np.testing.assert_allclose(new["up"]["kernel"], (1 - 0.5 * 0.1) * p["up"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(new["up"]["bias"], (1 - 0.5 * 0.1) * p["up"]["bias"], rtol=1e-6)
    np.testing.assert_array_equal(new["pieces"]["embedding"], p["pieces"]["embedding"])
    np.testing.assert_array_equal(new["norm"]["scale"], p["norm"]["scale"])


def test_a_multiplier_scales_the_decay_apart_from_the_learning_rate():
    """Without a gradient a step is -lr x (multipliers of lr) x weight_decay x (multipliers of decay) x p."""
    config = Optim(
        lr=0.5,
        schedule=Constant(),
        weight_decay=0.1,
        decayed=r"(kernel|embedding|scale)$",
        multipliers=(
            Multiplier(pattern="^up/", decay=0.3),
            Multiplier(pattern="kernel$", lr=0.7, decay=2.0),
            Multiplier(pattern="^norm/", decay=0.0),
        ),
    )
    p = params()
    (step,) = updates(config, p, [jax.tree.map(np.zeros_like, p)])
    np.testing.assert_allclose(
        step["up"]["kernel"], -0.5 * 0.7 * 0.1 * 0.3 * 2 * p["up"]["kernel"], rtol=1e-6
    )
    np.testing.assert_allclose(step["pieces"]["embedding"], -0.5 * 0.1 * p["pieces"]["embedding"], rtol=1e-6)
    assert not step["norm"]["scale"].any() and not step["up"]["bias"].any()


def test_a_pattern_that_names_no_parameter_is_refused_where_there_is_decay():
    with pytest.raises(ValueError, match=r"optim.decayed='kernels\$' matches none of .* pieces/embedding"):
        optim.make(Optim(weight_decay=0.1, decayed="kernels$"), 10).init(params())
    optim.make(Optim(weight_decay=0.0, decayed="kernels$"), 10).init(params())


@pytest.mark.parametrize(
    "fields",
    [
        dict(lr=0.0),
        dict(lr=math.nan),
        dict(weight_decay=-0.1),
        dict(warmup_steps=-1),
        dict(clip=0.0),
        dict(layer_decay=1.5),
        dict(ema=1.0),
        dict(decayed="(kernel"),
        dict(frozen="(image"),
    ],
    ids=str,
)
def test_impossible_values_are_refused(fields):
    name, value = next(iter(fields.items()))
    with pytest.raises(ValueError, match=f"{name}="):
        Optim(**fields)


def test_the_average_follows_the_parameters_as_its_formula_says():
    config, rng = Optim(ema=0.8), np.random.default_rng(3)
    average = expected = params()
    for step in range(60):
        now = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params())
        average = optim.average(config, average, now, step)
        decay = min(0.8, (1 + step) / (10 + step))
        expected = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * new, expected, now)
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-4, atol=1e-6), average, expected)


def test_a_field_of_another_optimizer_is_refused():
    assert config.load("configs/debug.py", ["optim.rule.b2=0.95"]).optim.rule.b2 == 0.95
    with pytest.raises(config.ConfigError, match=r"optim.rule \(AdamW\) has no 'beta'"):
        config.load("configs/debug.py", ["optim.rule.beta=0.95"])
