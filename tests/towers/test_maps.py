"""Maps of relevance against the formulas in NumPy, and what must be so whatever the weights."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mmjax.towers.conv import ConvNet
from mmjax.towers.layers import Encoder
from mmjax.towers.maps import has_maps, relevance
from mmjax.towers.resnet import ResNet
from mmjax.towers.vit import ViT

PATCH, HEADS, WIDTH, EMBED = 4, 2, 8, 6
VIT = ViT(width=WIDTH, patch=PATCH, embed=EMBED, encoder=Encoder(depth=2, heads=HEADS, mlp=8))


def begun(tower, size=8, seed=0):
    """(random parameters, two pictures, two directions)."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(2, size, size, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda: tower.init(jax.random.key(0), images)["params"])
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.5, shapes)
    text = rng.normal(size=(2, tower.embed)).astype(np.float32)
    return params, images, text / np.linalg.norm(text, axis=1, keepdims=True)


def mapped(tower, params, images, text):
    return np.asarray(jax.jit(functools.partial(relevance, tower))(params, images, text))


def norm(p, x):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def dense(p, x):
    return x @ p["kernel"].reshape(x.shape[-1], -1) + p["bias"].ravel()


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def forward(tower, params, image, nudges):
    """Embedding of one picture, in float64, with a nudge [N, S, S] for the attention of each block; and the
    attention of each block."""
    params = jax.tree.map(np.float64, params)
    grid = image.shape[0] // PATCH
    patches = image.reshape(grid, PATCH, grid, PATCH, 3).transpose(0, 2, 1, 3, 4).reshape(grid**2, -1)
    x = dense(params["patch"], patches)
    if tower.has_class_token:
        x = np.concatenate([params["class"][None], x])
    x, seen = x + params["positions"], []
    first = int(tower.has_class_token)
    if tower.registers:
        x = np.concatenate([x[:first], params["registers"], x[first:]])
    for layer, nudge in enumerate(nudges):
        p = jax.tree.map(lambda x, layer=layer: x[layer], params["encoder"]["blocks"])
        y = norm(p["norm_attention"], x)
        q, k, v = (
            dense(p["attention"][part], y).reshape(len(y), HEADS, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        seen.append(weights)
        mixed = ((weights + nudge) @ v).transpose(1, 0, 2).reshape(len(y), -1)
        out = p["attention"]["out"]
        x = x + mixed @ out["kernel"].reshape(-1, WIDTH) + out["bias"]
        x = x + dense(p["mlp"]["down"], gelu(dense(p["mlp"]["up"], norm(p["norm_mlp"], x))))
    x = norm(params["norm"], np.concatenate([x[:first], x[first + tower.registers :]]))
    tokens = x[first:]
    pooled = x[0] if tower.pool == "class" else tokens.mean(axis=0)
    return pooled @ params["head"]["kernel"], seen, tokens


def expected(tower, params, image, text):
    """Chefer et al., with slopes found by differences."""
    positions = (image.shape[0] // PATCH) ** 2 + tower.prefix
    still = [np.zeros((HEADS, positions, positions)) for _ in range(tower.encoder.depth)]
    z, weights, tokens = forward(tower, params, image, still)
    found = np.eye(positions)
    for layer, of_layer in enumerate(weights):
        slope = np.zeros_like(of_layer)
        for place in np.ndindex(*of_layer.shape):
            sides = []
            for sign in (1, -1):
                nudges = [x.copy() for x in still]
                nudges[layer][place] = sign * 1e-4
                sides.append(forward(tower, params, image, nudges)[0] @ text / np.linalg.norm(z))
            slope[place] = (sides[0] - sides[1]) / 2e-4
        found = found + np.maximum(of_layer * slope, 0).mean(axis=0) @ found
    if tower.pool == "class":
        return found[0, tower.prefix :]
    share = np.maximum(tokens @ params["head"]["kernel"] @ text / len(tokens) / np.linalg.norm(z), 0)
    return share @ found[tower.prefix :, tower.prefix :]


@pytest.mark.parametrize(
    "fields",
    [{"class_token": True, "registers": 2}, {"pool": "class", "registers": 1}],
)
def test_maps_of_a_transformer_are_those_of_the_formulas(fields):
    tower = VIT.clone(**fields)
    params, images, text = begun(tower)
    found = mapped(tower, params, images, text)
    for i in range(2):
        wanted = expected(tower, params, images[i], text[i])
        np.testing.assert_allclose(np.ravel(found[i]), wanted, rtol=2e-3, atol=2e-4 * wanted.max())


def test_how_the_blocks_are_run_does_not_matter():
    params, images, text = begun(VIT)
    other = VIT.clone(encoder=VIT.encoder.clone(scan=False, remat="full"))
    blocks = params["encoder"]["blocks"]
    layers = {f"block_{i}": jax.tree.map(lambda x, i=i: x[i], blocks) for i in range(2)}
    params = {**params, "encoder": layers}
    np.testing.assert_allclose(
        mapped(other, params, images, text), mapped(VIT, begun(VIT)[0], images, text), rtol=1e-4
    )


def test_without_positions_a_patch_takes_its_relevance_with_it():
    tower = VIT.clone(pool="map")
    params, images, text = begun(tower)
    params = params | {"positions": jnp.zeros_like(params["positions"])}
    moved = np.concatenate([images[:, PATCH:], images[:, :PATCH]], axis=1)
    here, there = (mapped(tower, params, each, text) for each in (images, moved))
    assert np.ptp(here) > 0
    np.testing.assert_allclose(there, here[:, ::-1], rtol=1e-4)


CONV = ConvNet(widths=(4, 8), depth=1, stem=4, stride=2, hidden=6, embed=EMBED)


def test_cells_that_the_head_does_not_read_are_of_no_relevance():
    params, images, text = begun(CONV, size=16)
    # The head reads the upper left quarter of 4 x 4 cells alone.
    read = np.zeros((4, 4, 1), bool)
    read[:2, :2] = True
    kernel = params["hidden"]["kernel"].reshape(4, 4, -1)
    params["hidden"]["kernel"] = np.where(read, kernel, 0).reshape(params["hidden"]["kernel"].shape)
    found = mapped(CONV, params, images, text)
    assert found.shape == (2, 4, 4)
    assert np.all(found[:, :2, :2].max(axis=(1, 2)) > 0)
    assert np.all(found[:, 2:] == 0) and np.all(found[:, :, 2:] == 0)


@pytest.mark.parametrize(
    "tower", [CONV, ResNet(depths=(1,), width=4, embed=EMBED, heads=2)], ids=["conv", "resnet"]
)
def test_maps_of_feature_maps_are_cells_times_slopes(tower):
    """Slopes by differences of the last map, along its own direction: a cell's part is how the score grows
    with that cell alone."""
    params, images, text = begun(tower, size=8)
    encoded = jax.jit(tower.apply)({"params": params}, images)
    norms = jnp.linalg.norm(encoded.embedding_BE, axis=1)
    found = mapped(tower, params, images, text).reshape(2, -1)

    @jax.jit
    def score(tokens):
        def pool(next_function, args, kwargs, context):
            args = (tokens, *args[1:]) if context.method_name == "pooled" else args
            return next_function(*args, **kwargs)

        with nn.intercept_methods(pool):
            z = tower.apply({"params": params}, images).embedding_BE
        return jnp.sum(z * text, axis=1) / norms

    for cell in range(found.shape[1]):
        step = 1e-2 * encoded.tokens_BSD * (np.arange(found.shape[1]) == cell)[None, :, None]
        slope = (score(encoded.tokens_BSD + step) - score(encoded.tokens_BSD - step)) / 2e-2
        np.testing.assert_allclose(found[:, cell], np.maximum(slope, 0), rtol=2e-2, atol=2e-3)


def test_bfloat16_maps_are_near_those_of_float32():
    params, images, text = begun(VIT)
    rough = VIT.clone(encoder=VIT.encoder.clone(dtype="bfloat16"))
    here, there = mapped(VIT, params, images, text), mapped(rough, params, images, text)
    assert there.dtype == np.float32
    # Eight bits of mantissa through two blocks.
    np.testing.assert_allclose(there, here, atol=0.1 * np.max(here))


def test_a_tower_that_pools_nothing_has_no_maps():
    assert has_maps(VIT) and has_maps(CONV) and not has_maps(VIT.clone(pool="none"))
