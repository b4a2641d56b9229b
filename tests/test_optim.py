"""The optimizer against its formulas."""

import math

import jax
import numpy as np
import optax
import pytest

from mmjax import optim
from mmjax.optim import AdamW, Muon, Optim


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


@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_the_rate_warms_up_linearly_and_then_keeps_its_schedule(kind, warmup):
    rate = optim.schedule(Optim(lr=0.3, warmup_steps=warmup, schedule=kind), 50)
    for step in (0, 1, 5, 9, 10, 11, 30, 49, 50):
        if step < warmup:
            expected = 0.3 * step / warmup
        elif kind == "constant":
            expected = 0.3
        else:
            expected = 0.3 * (1 + math.cos(math.pi * (step - warmup) / (50 - warmup))) / 2
        np.testing.assert_allclose(rate(step), expected, rtol=1e-6, atol=1e-8)


def adamw(config, rate, p, gradients, decayed):
    """Algorithm 2 of Loshchilov and Hutter 2019, arXiv:1711.05101, in float64, after clipping all leaves
    together to a norm of `config.clip`; the learning rate scales the decay."""
    rule = config.rule
    p = [leaf.astype(np.float64) for leaf in p]
    m, v = [np.zeros_like(leaf) for leaf in p], [np.zeros_like(leaf) for leaf in p]
    for t, grads in enumerate(gradients, start=1):
        norm = math.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads))
        shrink = 1 if config.clip is None else min(1, config.clip / norm)
        for i, g in enumerate(grads):
            g = shrink * g
            m[i] = rule.b1 * m[i] + (1 - rule.b1) * g
            v[i] = rule.b2 * v[i] + (1 - rule.b2) * g**2
            m_hat, v_hat = m[i] / (1 - rule.b1**t), v[i] / (1 - rule.b2**t)
            decay = config.weight_decay * p[i] if decayed[i] else 0
            p[i] = p[i] - rate(t - 1) * (m_hat / (np.sqrt(v_hat) + rule.eps) + decay)
    return p


@pytest.mark.parametrize("clip", [None, 3.0])
def test_steps_are_those_of_adamw(clip):
    rule = AdamW(b1=0.8, b2=0.95, eps=1e-3)
    config = Optim(rule=rule, lr=0.1, warmup_steps=2, clip=clip, weight_decay=0.2)
    p, rng = params(), np.random.default_rng(1)
    # Norms on both sides of the clip.
    gradients = [
        jax.tree.map(lambda leaf, s=s: (s * rng.normal(size=leaf.shape)).astype(np.float32), p)
        for s in (0.1, 1.0, 3.0, 0.3, 2.0)
    ]
    leaves = [jax.tree.leaves(grads) for grads in gradients]
    norms = [math.sqrt(sum((g**2).sum() for g in grads)) for grads in leaves]
    assert min(norms) < 3 < max(norms)
    decayed = jax.tree.leaves(
        {"up": {"kernel": True, "bias": False}, "pieces": {"embedding": True}, "norm": {"scale": False}}
    )
    expected = adamw(config, optim.schedule(config, 9), jax.tree.leaves(p), leaves, decayed)
    tx = optim.make(config, 9)
    state, update = tx.init(p), jax.jit(tx.update)
    for grads in gradients:
        updates, state = update(grads, state, p)
        p = optax.apply_updates(p, updates)
    for one, other in zip(jax.tree.leaves(p), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def newton_schulz(x, iterations):
    """Jordan et al. 2024: 3.4445 x - 4.7750 x^3 + 2.0315 x^5 of the singular values, in float64."""
    x = x.astype(np.float64) / np.linalg.norm(x)
    for _ in range(iterations):
        x = 3.4445 * x - 4.7750 * (x @ x.T) @ x + 2.0315 * (x @ x.T) @ (x @ x.T) @ x
    return x


MATRICES = {  # path: shape, and each of its matrices as inputs x outputs
    "mix/kernel": ((6, 4), lambda x: [x]),
    "stem/kernel": ((3, 3, 2, 5), lambda x: [x.reshape(18, 5)]),
    "attention/query/kernel": ((6, 2, 4), lambda x: [x.reshape(6, 8)]),
    "blocks/attention/query/kernel": ((3, 6, 2, 4), lambda x: list(x.reshape(3, 6, 8))),
    "blocks/attention/out/kernel": ((3, 2, 4, 6), lambda x: list(x.reshape(3, 8, 6))),
    "blocks/mlp/up/kernel": ((3, 6, 5), list),
}


@pytest.mark.parametrize("path", MATRICES)
def test_a_first_step_of_muon_is_each_matrix_made_orthogonal_as_large_as_adamws(path):
    shape, split = MATRICES[path]
    rng = np.random.default_rng(2)
    p, gradient = ({path: rng.normal(size=shape).astype(np.float32)} for _ in range(2))
    tx = optim.make(Optim(rule=Muon(), lr=0.1, schedule="constant", clip=None), 10)
    updates, _ = jax.jit(tx.update)(gradient, tx.init(p), p)
    for step, matrix in zip(split(updates[path]), split(gradient[path]), strict=True):
        expected = -0.1 * 0.2 * max(matrix.shape) ** 0.5 * newton_schulz(matrix, 5)
        np.testing.assert_allclose(step, expected, rtol=1e-3, atol=1e-5)


def test_muon_leaves_what_is_no_matrix_to_adamw():
    p, others = params(), AdamW(b1=0.8, b2=0.95)
    ours, theirs = (
        optim.make(Optim(rule=rule, lr=0.1, schedule="constant", clip=None), 10)
        for rule in (Muon(others=others), others)
    )
    grads = jax.tree.map(lambda leaf: leaf + 1, p)
    ours, theirs = (tx.update(grads, tx.init(p), p)[0] for tx in (ours, theirs))
    assert not np.allclose(ours["up"]["kernel"], theirs["up"]["kernel"], rtol=0.1)
    for module, name in (("up", "bias"), ("pieces", "embedding"), ("norm", "scale")):
        np.testing.assert_array_equal(ours[module][name], theirs[module][name])


def test_muon_without_a_matrix_is_refused():
    with pytest.raises(
        ValueError, match=r"optim.rule.matrices='weights\$' matches none of .* pieces/embedding"
    ):
        optim.make(Optim(rule=Muon(matrices="weights$")), 10).init(params())


def test_a_step_without_gradient_shrinks_exactly_the_parameters_that_the_pattern_names():
    config = Optim(lr=0.5, schedule="constant", weight_decay=0.1, decayed=r"up/")
    p = params()
    tx = optim.make(config, 10)
    updates, _ = jax.jit(tx.update)(jax.tree.map(np.zeros_like, p), tx.init(p), p)
    new = optax.apply_updates(p, updates)
    np.testing.assert_allclose(new["up"]["kernel"], (1 - 0.5 * 0.1) * p["up"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(new["up"]["bias"], (1 - 0.5 * 0.1) * p["up"]["bias"], rtol=1e-6)
    np.testing.assert_array_equal(new["pieces"]["embedding"], p["pieces"]["embedding"])
    np.testing.assert_array_equal(new["norm"]["scale"], p["norm"]["scale"])


def test_a_pattern_that_names_no_parameter_is_refused_where_there_is_decay():
    with pytest.raises(ValueError, match=r"optim.decayed='kernels\$' matches none of .* pieces/embedding"):
        optim.make(Optim(weight_decay=0.1, decayed="kernels$"), 10).init(params())
    optim.make(Optim(weight_decay=0.0, decayed="kernels$"), 10).init(params())


def test_a_warmup_as_long_as_the_run_is_refused():
    optim.schedule(Optim(warmup_steps=9), 10)
    with pytest.raises(ValueError, match="warmup_steps=10 leaves nothing of steps=10"):
        optim.schedule(Optim(warmup_steps=10), 10)


@pytest.mark.parametrize(
    "fields", [dict(lr=0.0), dict(warmup_steps=-1), dict(clip=0.0), dict(decayed="(kernel")], ids=str
)
def test_impossible_values_are_refused(fields):
    name, value = next(iter(fields.items()))
    with pytest.raises(ValueError, match=f"{name}="):
        Optim(**fields)
