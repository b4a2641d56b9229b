"""What of a tower is trained, and how it becomes the tower again."""

import re

import jax
import numpy as np
import pytest

from mmjax.finetune.adapt import Adapt, plan
from mmjax.finetune.tune import Extend, Full, Lora, Part
from mmjax.optim import Optim
from mmjax.optim.paths import matches
from mmjax.sharding import path_name
from mmjax.towers.extended import Adapters
from mmjax.towers.layers import Encoder
from mmjax.towers.prompts import Border, Tokens
from mmjax.towers.vit import ViT

TOWER = ViT(width=16, patch=8, embed=8, encoder=Encoder(depth=2, heads=2))
IMAGES = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return {"image": jax.jit(TOWER.init)(jax.random.key(0), IMAGES)["params"]}


def paths(tree):
    return {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def merged(tune, params, change=0.0):
    """The tower after every trained number was changed by so much."""
    start, fixed = tune.start(params), tune.fixed(params)
    trained = jax.tree.map(lambda x: x + change, tune.begin(jax.random.key(1), start, fixed))
    return trained, tune.merged(trained, fixed)


@pytest.mark.parametrize("tune", [Full(), Part(), Part(pattern="bias$"), Lora()], ids=str)
def test_nothing_changes_at_first_and_no_parameter_is_lost(tune, params):
    jax.tree.map(np.testing.assert_array_equal, merged(tune, params)[1], params)


def test_a_part_is_all_that_is_trained(params):
    trained, after = merged(Part(pattern="bias$"), params, change=1.0)
    assert paths(trained) == {path for path in paths(params) if path.endswith("bias")}
    for path, x in jax.tree_util.tree_leaves_with_path(jax.tree.map(np.subtract, after, params)):
        assert np.allclose(x, 1.0 if path_name(path).endswith("bias") else 0.0)
    assert merged(Part(), params)[0] == {}


def test_low_rank_changes_are_trained_of_the_named_kernels_alone(params):
    trained, after = merged(Lora(pattern="(query|up)/kernel$", rank=2), params, change=0.1)
    changed = {
        path_name(path)
        for path, x in jax.tree_util.tree_leaves_with_path(jax.tree.map(np.subtract, after, params))
        if np.any(x)
    }
    named = {path for path in paths(params) if path.endswith(("query/kernel", "up/kernel"))}
    assert changed == named
    assert paths(trained) == {f"lora/{path}/{factor}" for path in named for factor in "ab"}


@pytest.mark.parametrize("kernel, axes", [("query/kernel", 1), ("attention/out/kernel", 2), ("up/kernel", 1)])
def test_a_merged_layer_is_the_layer_and_the_low_rank_path_beside_it(kernel, axes, params):
    """y = x W + scale / rank (x A) B in float64, layer by layer."""
    trained, after = merged(Lora(pattern=f"{kernel}$", rank=3, scale=6.0), params, change=0.1)
    (w_LIO,), (merged_LIO,), (a_LIR, b_LRO) = (named(tree, kernel) for tree in (params, after, trained))
    rng = np.random.default_rng(1)
    for layer in range(2):
        inputs = np.prod(w_LIO.shape[1 : 1 + axes])
        x_BI = rng.normal(size=(5, inputs))
        beside = x_BI @ w_LIO[layer].reshape(inputs, -1) + 2.0 * (x_BI @ a_LIR[layer]) @ b_LRO[layer]
        np.testing.assert_allclose(x_BI @ merged_LIO[layer].reshape(inputs, -1), beside, atol=1e-6)


def named(tree, part):
    """Leaves whose path has a part, in float64."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [np.asarray(x, np.float64) for path, x in leaves if f"/{part}" in f"/{path_name(path)}"]


def test_a_merged_convolution_is_the_convolution_and_the_low_rank_path_beside_it():
    """A is a convolution to as few channels as the rank, B one of 1 x 1; in float64."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 4, 5)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(rng.normal(size=(2, 6, 6, 4)), (3, 3), axis=(1, 2))
    trained, after = merged(Lora(pattern="kernel$", rank=2, scale=6.0), {"image": {"kernel": kernel}}, 0.1)
    ((a,), (b,)) = (named(trained, f"image/kernel/{factor}") for factor in "ab")

    def convolved(kernel):
        return np.einsum("bhwcij,ijco->bhwo", windows, np.float64(kernel))

    beside = convolved(kernel) + 3.0 * convolved(a.reshape(3, 3, 4, 2)) @ b
    np.testing.assert_allclose(convolved(after["image"]["kernel"]), beside, atol=1e-6)


def test_a_convolution_can_be_changed_too():
    kernel = np.ones((3, 3, 4, 5), np.float32)
    trained, after = merged(Lora(pattern="kernel$", rank=1, scale=1.0), {"image": {"kernel": kernel}}, 1.0)
    a, b = trained["lora"]["image"]["kernel"]["a"], trained["lora"]["image"]["kernel"]["b"]
    assert a.shape == (36, 1) and b.shape == (1, 5)
    np.testing.assert_allclose(after["image"]["kernel"].reshape(36, 5), 1 + a @ b, rtol=1e-6)


@pytest.mark.parametrize("tune", [Part(pattern="none"), Lora(pattern="none")], ids=str)
def test_a_pattern_that_names_nothing_is_refused(tune, params):
    with pytest.raises(ValueError, match="tune.pattern='none' matches none of the parameters"):
        merged(tune, params)


EXTRAS = (Adapters(width=3), Tokens(count=2), Border(width=2))


@pytest.fixture(scope="module")
def extended():
    """(tuning, tower, its parameters): all that a ViT can be given."""
    tune = Extend(extras=EXTRAS, also="norm.*/scale$")
    tower = tune.module(TOWER)
    return tune, tower, {"image": jax.eval_shape(tower.init, jax.random.key(0), IMAGES)["params"]}


def test_what_is_put_into_a_tower_is_all_that_is_trained(extended):
    tune, _, params = extended
    there = paths({"image": jax.eval_shape(TOWER.init, jax.random.key(0), IMAGES)["params"]})
    assert paths(params) > there
    scales = {path for path in there if re.search(r"norm\w*/scale$", path)}
    assert paths(tune.start(params)) == paths(params) - there | scales
    assert paths(tune.fixed(params)) == there - scales
    both = tune.merged(tune.start(params), tune.fixed(params))
    assert paths(both) == paths(params)


def test_only_new_parameters_begin_anew(extended):
    tune, _, params = extended
    there = {"image": jax.eval_shape(TOWER.init, jax.random.key(0), IMAGES)["params"]}
    fates = {step.path: step.fate for step in plan(Adapt(), there, params, new=tune.new)}
    assert {path for path, fate in fates.items() if fate == "fresh"} == paths(params) - paths(there)
    # A run that trained these goes on with them.
    assert {step.fate for step in plan(Adapt(), params, params, new=tune.new)} == {"restored"}
    with pytest.raises(ValueError, match="is in the tower and not in the checkpoint"):
        plan(Adapt(), there, params)


def test_kernels_of_adapters_decay_and_prompts_do_not(extended):
    tune, _, params = extended
    decayed = matches("optim.decayed", Optim().decayed, tune.start(params))
    found = {path_name(path) for path, yes in jax.tree_util.tree_leaves_with_path(decayed) if yes}
    assert found == {path for path in paths(params) if re.search("/adapter/.*/kernel$", path)}


def test_a_tower_that_has_its_parts_is_given_no_more(extended):
    tune, tower, _ = extended
    assert tune.module(tower) == tower
    with pytest.raises(ValueError, match="tune.extras=.. puts nothing into the tower"):
        Extend(extras=())


def test_impossible_ranks_are_refused():
    with pytest.raises(ValueError, match="rank=0 must be at least 1"):
        Lora(rank=0)
