"""Pruned towers: which weights are zero, and that they stay so while the rest is trained."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tinyclass
import tinycontrast

from mmjax.finetune import Backbone
from mmjax.finetune.pruned import Pruned
from mmjax.optim import Muon, Optim
from mmjax.sharding import path_name

SHAPES = {
    "patch": {"kernel": (12, 6), "bias": (6,)},
    "blocks": {"up": {"kernel": (3, 6, 10)}},  # three layers
    "conv": {"kernel": (3, 3, 4, 5)},
}


@pytest.fixture
def params():
    rng = np.random.default_rng(0)

    def draw(shape):
        return (rng.normal(size=shape) * rng.choice([0.1, 1, 3])).astype(np.float32)

    return {"image": jax.tree.map(draw, SHAPES, is_leaf=lambda x: isinstance(x, tuple))}


def begun(tune, params):
    return jax.device_get(tune.begin(jax.random.key(0), tune.start(params), tune.fixed(params)))


def kernels(tree):
    """Kernels by path, in NumPy."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {path_name(path): x for path, x in leaves if path_name(path).endswith("kernel")}


def without_smallest(x, share):
    """`x` with that share of its entries zero, by sorting them."""
    flat = x.ravel().copy()
    flat[np.argsort(np.abs(flat))[: round(share * flat.size)]] = 0
    return flat.reshape(x.shape)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_smallest_weights_of_each_kernel_and_layer_are_zero(share, params):
    found = begun(Pruned(share=share), params)
    for path, x in kernels(params).items():
        layers = x if "blocks" in path else x[None]
        expected = np.stack([without_smallest(layer, share) for layer in layers]).reshape(x.shape)
        np.testing.assert_array_equal(kernels(found)[path], expected)
    np.testing.assert_array_equal(found["image"]["patch"]["bias"], params["image"]["patch"]["bias"])


def test_the_smallest_of_all_kernels_together_are_zero(params):
    found = kernels(begun(Pruned(share=0.4, together=True), params))
    limit = np.quantile(np.abs(np.concatenate([x.ravel() for x in kernels(params).values()])), 0.4)
    for path, x in kernels(params).items():
        np.testing.assert_array_equal(found[path], np.where(np.abs(x) < limit, 0, x))
    shares = [np.mean(x == 0) for x in found.values()]
    assert max(shares) > 0.4 > min(shares)


def test_only_named_kernels_are_pruned(params):
    found = kernels(begun(Pruned(pattern="conv/"), params))
    for path, x in found.items():
        assert np.mean(x == 0) == (0.5 if "conv" in path else 0)
    with pytest.raises(ValueError, match="tune.pattern='none' matches none of the parameters"):
        begun(Pruned(pattern="none"), params)


def test_of_equal_weights_no_more_than_the_share_are_zero(params):
    equal = jax.tree.map(np.ones_like, params)
    assert all(np.mean(x == 0) == 0.5 for x in kernels(begun(Pruned(), equal)).values())


def test_a_zero_has_no_gradient(params):
    tune = Pruned()
    trained = begun(tune, params)
    merged = tune.merged(trained, {})
    jax.tree.map(np.testing.assert_array_equal, merged, trained)
    grads = kernels(jax.grad(lambda x: sum(map(jnp.sum, jax.tree.leaves(tune.merged(x, {})))))(trained))
    for path, x in kernels(trained).items():
        np.testing.assert_array_equal(grads[path], x != 0)


def test_a_growing_share_follows_its_curve_and_takes_no_zero_back(params):
    """Zhu & Gupta 2017, eq. 1: s (1 - (1 - t/n)^3)."""
    tune, rng = Pruned(share=0.8, over_steps=40), np.random.default_rng(1)
    trained = begun(tune, params)
    assert all(np.all(x != 0) for x in kernels(trained).values())
    after_step, shares = jax.jit(tune.after_step), []
    for step in range(1, 61):
        # An optimizer that moves what it should not.
        moved = jax.tree.map(lambda x: x + 0.01 * rng.normal(size=x.shape).astype(np.float32), trained)
        before, trained = trained, jax.device_get(after_step(step, trained, moved))
        for path, x in kernels(trained).items():
            assert np.all(x[kernels(before)[path] == 0] == 0)
        shares.append(np.mean(trained["image"]["conv"]["kernel"] == 0))
    assert len(set(shares)) <= 20 and np.all(np.diff(shares) >= 0)
    for step in (10, 20, 40):
        assert shares[step - 1] == pytest.approx(0.8 * (1 - (1 - step / 40) ** 3), abs=0.5 / 180)
    assert shares[-1] == shares[39] == 0.8


OPTIM = {
    "adamw": Optim(lr=0.05, weight_decay=0.1, ema=0.5),
    "muon": Optim(rule=Muon(), lr=0.02, ema=0.5),
}


@pytest.mark.parametrize("rule, over_steps", [("adamw", 0), ("muon", 0), ("muon", 4)])
def test_training_keeps_what_is_zero_and_changes_the_rest(rule, over_steps):
    cfg = tinyclass.config(tower={"tune": Pruned(share=0.4, over_steps=over_steps)}, optim=OPTIM[rule])
    states, metrics = tinyclass.states(cfg, 6)
    pruned, last = (kernels(states[i]["params"]["image"]) for i in (over_steps, 6))
    for path, x in last.items():
        assert np.sum(x == 0) == round(0.4 * x.size)
        np.testing.assert_array_equal(x == 0, pruned[path] == 0)
        assert np.all(x[x != 0] != pruned[path][x != 0])
        assert np.all(kernels(states[6]["ema"]["image"])[path][x == 0] == 0)
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert not any(np.any(x == 0) for x in kernels(states[6]["params"]["head"]).values())


def test_a_contrastive_finetune_keeps_zeros_too(tmp_path):
    towers = {"image": Backbone(tune=Pruned(share=0.7)), "text": Backbone()}
    cfg = tinycontrast.contrast(tinycontrast.finished(tmp_path / "run"), towers=towers, optim=OPTIM["muon"])
    _, step, state, _ = tinycontrast.begun(cfg)
    first = jax.device_get(state["params"])
    for _ in range(2):
        state, _ = step(state, tinycontrast.batch())
    for path, x in kernels(state["params"]).items():
        assert np.sum(x == 0) == (round(0.7 * x.size) if path.startswith("image/") else 0)
        assert np.any(x != kernels(first)[path])


def test_a_share_that_the_run_does_not_reach_is_refused():
    message = "towers.image.tune.over_steps=11 is more than steps=10; leave steps to train in"
    with pytest.raises(ValueError, match=message):
        tinyclass.config(tower={"tune": Pruned(over_steps=11)})


def test_impossible_shares_are_refused():
    for fields, said in (({"share": 1.0}, "share=1.0"), ({"over_steps": -1}, "over_steps=-1")):
        with pytest.raises(ValueError, match=re.escape(said)):
            Pruned(**fields)
