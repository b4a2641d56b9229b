"""Features by name are what the tower computed, whatever the form of its layers, and cost no second pass."""

import functools

import jax
import numpy as np
import pytest

from mmjax import flops
from mmjax.towers.features import features
from mmjax.towers.layers import Encoder
from mmjax.towers.resnet import ResNet
from mmjax.towers.vit import ViT

IMAGE = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
NAMES = ("patch", "encoder/block_1", "encoder/block_-1", "norm", "tokens")


def vit(**encoder):
    encoder = Encoder(**dict(depth=3, heads=2) | encoder)
    return ViT(width=16, patch=16, embed=8, encoder=encoder, pool="class", registers=1)


@functools.cache
def scanned_params():
    return jax.jit(vit().init)(jax.random.key(0), IMAGE)["params"]


def unrolled(params):
    blocks = params["encoder"]["blocks"]
    layers = {f"block_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], blocks) for i in range(3)}
    return params | {"encoder": layers}


def of(tower, params, names):
    return jax.jit(lambda params: features(tower, params, IMAGE, names))(params)


@functools.cache
def of_layers_one_by_one():
    return of(vit(scan=False), unrolled(scanned_params()), NAMES).by_name


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("scan", [True, False])
def test_blocks_have_their_names_whether_layers_are_scanned_or_not(scan, remat):
    params = scanned_params() if scan else unrolled(scanned_params())
    expected, tower = of_layers_one_by_one(), vit(scan=scan, remat=remat)
    found = of(tower, params, NAMES)
    for name in NAMES:
        np.testing.assert_allclose(found.by_name[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    whole = jax.jit(tower.apply)({"params": params}, IMAGE)
    np.testing.assert_allclose(found.encoded.embedding_BE, whole.embedding_BE, rtol=1e-4, atol=1e-5)


def test_a_block_holds_what_the_blocks_before_it_made():
    params = scanned_params()
    found = of(vit(), params, ("encoder/block_0", "encoder/block_1")).by_name
    short = vit(depth=2)
    shorter = params | {"encoder": {"blocks": jax.tree.map(lambda p: p[:2], params["encoder"]["blocks"])}}
    expected = of(short, shorter, ("encoder/block_-1",)).by_name["encoder/block_-1"]
    np.testing.assert_allclose(found["encoder/block_1"], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found["encoder/block_0"], expected, atol=1e-2)


def test_features_cost_no_second_pass():
    tower, params = vit(), scanned_params()
    alone = flops.count(lambda p: tower.apply({"params": p}, IMAGE), params)
    assert flops.count(lambda p: features(tower, p, IMAGE, NAMES), params) == alone


def test_any_tower_has_its_parts_by_name():
    tower = ResNet(depths=(1, 1, 1, 1), width=8, embed=8)
    params = jax.eval_shape(tower.init, jax.random.key(0), IMAGE)["params"]
    names = ("stage_0_0", "stage_2_0", "tokens")
    found = jax.eval_shape(lambda params: features(tower, params, IMAGE, names), params)
    assert [x.shape for x in found.by_name.values()] == [(2, 8, 8, 32), (2, 2, 2, 128), (2, 1, 256)]


@pytest.mark.parametrize(
    "name, near", [("encoder/block_3", "encoder/block_"), ("nrm", "norm"), ("?", "tokens")]
)
def test_a_part_that_does_not_exist_is_refused_with_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"no part .*; use one of .*{near}"):
        jax.eval_shape(lambda params: features(vit(), params, IMAGE, (name,)), scanned_params())
