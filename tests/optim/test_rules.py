"""Update rules against their papers' formulas, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax import optim
from mmjax.optim import Adafactor, AdamW, Constant, Lamb, Lion, Muon, Optim

LR, DECAY, STEPS = 0.1, 0.2, 6
# A matrix, a scanned stack of them, one too narrow to factor, and a vector.
SHAPES = {
    "mix/kernel": (40, 36),
    "blocks/mlp/up/kernel": (3, 34, 33),
    "head/kernel": (5, 3),
    "mix/bias": (36,),
}


def params():
    rng = np.random.default_rng(0)
    return {path: rng.normal(size=shape).astype(np.float32) for path, shape in SHAPES.items()}


def gradients():
    rng = np.random.default_rng(1)
    return [{path: rng.normal(size=s).astype(np.float32) for path, s in SHAPES.items()} for _ in range(STEPS)]


def train(rule):
    """Parameters after STEPS steps."""
    tx = optim.make(Optim(rule=rule, lr=LR, schedule=Constant(), clip=None, weight_decay=DECAY), STEPS)
    p = params()
    state, update = tx.init(p), jax.jit(tx.update)
    for grads in gradients():
        updates, state = update(grads, state, p)
        p = optax.apply_updates(p, updates)
    return p


def expect(rule, step):
    """The same, where `step(path, p, g, memory, t, decay)` gives the direction of a rule, decay and all."""
    p = {path: leaf.astype(np.float64) for path, leaf in params().items()}
    memory = {path: {} for path in p}
    for t, grads in enumerate(gradients(), start=1):
        for path in p:
            decay = DECAY * p[path] if path.endswith("kernel") else 0
            g = grads[path].astype(np.float64)
            p[path] = p[path] - LR * step(path, p[path], g, memory[path], t, decay)
    return p


def same(rule, step, rtol=1e-4):
    ours, expected = train(rule), expect(rule, step)
    for path in SHAPES:
        np.testing.assert_allclose(ours[path], expected[path], rtol=rtol, atol=1e-5, err_msg=path)


def adam(rule, g, memory, t):
    m = memory["m"] = rule.b1 * memory.get("m", 0) + (1 - rule.b1) * g
    v = memory["v"] = rule.b2 * memory.get("v", 0) + (1 - rule.b2) * g**2
    return m / (1 - rule.b1**t) / (np.sqrt(v / (1 - rule.b2**t)) + rule.eps)


def test_adamw():
    """Algorithm 2 of Loshchilov and Hutter 2019, arXiv:1711.05101."""
    rule = AdamW(b1=0.8, b2=0.95, eps=1e-3)
    same(rule, lambda path, p, g, memory, t, decay: adam(rule, g, memory, t) + decay)


def test_lion():
    """Program 1 of Chen et al. 2023, arXiv:2302.06675."""
    rule = Lion(b1=0.8, b2=0.9)

    def step(path, p, g, memory, t, decay):
        m = memory.get("m", 0)
        memory["m"] = rule.b2 * m + (1 - rule.b2) * g
        return np.sign(rule.b1 * m + (1 - rule.b1) * g) + decay

    same(rule, step)


def test_lamb():
    """Algorithm 2 of You et al. 2020, arXiv:1904.00962, layer by layer; vectors take Adam's step."""
    rule = Lamb(b1=0.8, b2=0.95)

    def step(path, p, g, memory, t, decay):
        u = adam(rule, g, memory, t) + decay
        if path.startswith("blocks"):
            return np.stack([np.linalg.norm(a) / np.linalg.norm(b) * b for a, b in zip(p, u, strict=True)])
        return u if p.ndim == 1 else np.linalg.norm(p) / np.linalg.norm(u) * u

    same(rule, step)


def test_adafactor():
    """Algorithm 4 of Shazeer and Stern 2018, arXiv:1804.04235, without clipping and relative step; the cap
    of b2 and the momentum of Zhai et al. 2022, arXiv:2106.04560, section 3.4."""
    rule = Adafactor(b1=0.8, b2_most=0.7, moment="float32")

    def step(path, p, g, memory, t, decay):
        b2 = min(1 - t**-0.8, 0.7)
        rows, columns = p.shape[-2:] if p.ndim > 1 else (0, 0)
        if min(rows, columns) >= rule.factored_from:
            r = memory["r"] = b2 * memory.get("r", 0) + (1 - b2) * np.mean(g**2, axis=-1, keepdims=True)
            c = memory["c"] = b2 * memory.get("c", 0) + (1 - b2) * np.mean(g**2, axis=-2, keepdims=True)
            v = r * c / np.mean(r, axis=-2, keepdims=True)
        else:
            v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g**2
        memory["m"] = rule.b1 * memory.get("m", 0) + (1 - rule.b1) * g / np.sqrt(v)
        return memory["m"] + decay

    same(rule, step)


@pytest.mark.parametrize("rule", [AdamW, Lion, Adafactor, Lamb, Muon], ids=lambda rule: rule.__name__)
def test_a_first_moment_in_bfloat16_is_kept_in_it_and_changes_little(rule):
    state = optim.make(Optim(rule=rule(moment="bfloat16")), STEPS).init(params())
    halves = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.bfloat16]
    assert sum(leaf.size for leaf in halves) >= sum(
        leaf.size for name, leaf in params().items() if "kernel" in name
    )
    wide, narrow = train(rule(moment="float32")), train(rule(moment="bfloat16"))
    for path in SHAPES:
        assert narrow[path].dtype == np.float32
        moved = np.linalg.norm(wide[path] - params()[path])
        # A sign that flips for a momentum near 0 moves an entry by two steps.
        assert np.linalg.norm(wide[path] - narrow[path]) < (0.15 if rule is Lion else 0.02) * moved, path


LAYERS = 40  # more than the smallest side that is factored, and more than some sides of what follows
STACKED = {
    "norm/scale": (64,),
    "attention/query/bias": (8, 36),
    "attention/query/kernel": (36, 2, 34),
    "mix/kernel": (33, 34),
}


@pytest.mark.parametrize(
    "rule",
    [AdamW(), Lion(), Adafactor(moment="float32"), Lamb(), Muon(matrices="(kernel|scale)$")],
    ids=lambda rule: type(rule).__name__,
)
def test_scanned_layers_take_the_steps_of_unrolled_ones(rule):
    tx = optim.make(Optim(rule=rule, lr=LR, schedule=Constant(), clip=None, weight_decay=DECAY), STEPS)

    def draw(seed):
        rng = np.random.default_rng(seed)
        # Layers of very different size: what one has, another must not see.
        size = 10.0 ** np.linspace(-2, 2, LAYERS)
        return {
            f"blocks/{path}": size.reshape(-1, *[1] * len(shape)).astype(np.float32)
            * rng.normal(size=(LAYERS, *shape)).astype(np.float32)
            for path, shape in STACKED.items()
        }

    def layer(tree, i):
        return {path.replace("blocks", "block_0"): leaf[i] for path, leaf in tree.items()}

    def two_steps(p, gradients):
        state = tx.init(p)
        for grads in gradients:
            updates, state = tx.update(grads, state, p)
        return updates

    p, gradients = draw(0), [draw(1), draw(2)]
    scanned, one = jax.jit(two_steps)(p, gradients), jax.jit(two_steps)
    for i in range(LAYERS):
        for path, expected in one(layer(p, i), [layer(grads, i) for grads in gradients]).items():
            given = scanned[path.replace("block_0", "blocks")][i]
            np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-6, err_msg=path)


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
    tx = optim.make(Optim(rule=Muon(), lr=0.1, schedule=Constant(), clip=None), 10)
    updates, _ = jax.jit(tx.update)(gradient, tx.init(p), p)
    for step, matrix in zip(split(updates[path]), split(gradient[path]), strict=True):
        expected = -0.1 * 0.2 * max(matrix.shape) ** 0.5 * newton_schulz(matrix, 5)
        np.testing.assert_allclose(step, expected, rtol=1e-3, atol=1e-5)


def test_muon_leaves_what_is_no_matrix_to_adamw():
    others = AdamW(b1=0.8, b2=0.95)
    ours, theirs = train(Muon(others=others)), train(others)
    np.testing.assert_allclose(ours["mix/bias"], theirs["mix/bias"], rtol=1e-6)
    assert not np.allclose(ours["mix/kernel"], theirs["mix/kernel"], rtol=0.1)


def test_muon_without_a_matrix_is_refused():
    with pytest.raises(ValueError, match=r"optim.rule.matrices='weights\$' matches none of .* mix/kernel"):
        optim.make(Optim(rule=Muon(matrices="weights$")), 10).init(params())


@pytest.mark.parametrize(
    "rule, fields",
    [
        (AdamW, dict(b1=-0.1)),
        (AdamW, dict(b2=1.5)),
        (AdamW, dict(eps=0.0)),
        (Lion, dict(b2=1.0)),
        (Adafactor, dict(b1=float("nan"))),
        (Adafactor, dict(b2_most=1.0)),
        (Adafactor, dict(b2_power=0.0)),
        (Adafactor, dict(factored_from=0)),
        (Lamb, dict(b1=1.0)),
        (Lamb, dict(eps=-1.0)),
        (Muon, dict(beta=1.0)),
        (Muon, dict(iterations=0)),
    ],
)
def test_impossible_values_are_refused(rule, fields):
    ((name, value),) = fields.items()
    with pytest.raises(ValueError, match=f"^{name}={value} "):
        rule(**fields)
