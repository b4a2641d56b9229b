"""Layer-wise decay: lr * decay**(layers above), of every kind of tower and of every part of one."""

import re

import jax
import numpy as np
import pytest

from mmjax import optim
from mmjax.finetune.fusion import CrossAttention
from mmjax.finetune.tune import Extend, Full, Lora, Part
from mmjax.finetune.tuned import Tuned
from mmjax.optim import Constant, Multiplier, Optim, Towers
from mmjax.optim.layers import layer_decay
from mmjax.sharding import path_name
from mmjax.towers import Encoded
from mmjax.towers.conv import ConvNet
from mmjax.towers.extended import Adapters
from mmjax.towers.layers import Encoder
from mmjax.towers.prompts import Border, Tokens
from mmjax.towers.resnet import ResNet
from mmjax.towers.text import BagOfPieces, TextTransformer
from mmjax.towers.vit import ViT

DECAY = 0.5
PICTURES, PIECES = np.zeros((1, 32, 32, 3), np.float32), np.zeros((1, 6), np.int32)

VIT = ViT(width=8, patch=8, embed=4, pool="class", encoder=Encoder(depth=3, heads=2))
TEXT = TextTransformer(
    vocab=300, length=6, width=8, embed=4, encoder=Encoder(depth=2, heads=2, causal=True, scan=False)
)
BAG = BagOfPieces(vocab=300, width=8, embed=4)

# Paths to how many layers are above: of each layer of a stack, where a path holds several.
ABOVE_VIT = {
    r"^(patch|positions|class|border_rows|border_columns|encoder/prompts)(/|$)": 4,
    r"^encoder/blocks/": (3, 2, 1),
    r"^(norm|head)/": 0,
}
ABOVE_TEXT = {r"^(pieces|positions)(/|$)": 3, r"/block_0/": 2, r"/block_1/": 1, r"^(norm|head)/": 0}
ABOVE_CONV = {
    r"^stem/": 5,
    r"^stage_0_0_": 4,
    r"^stage_0_1_": 3,
    r"^(shrink_1/|stage_1_0_)": 2,
    r"^stage_1_1_": 1,
    r"^(norm|hidden|norm_hidden|head)/": 0,
}
ABOVE_RESNET = {
    r"^(stem|norm)_\d/": 4,
    r"^stage_0_0/": 3,
    r"^stage_1_0/": 2,
    r"^stage_1_1/": 1,
    r"^(positions$|attention/)": 0,
}
EXTRAS = (Adapters(width=2), Tokens(count=2), Border(width=2))


def shapes(tower, inputs):
    return jax.eval_shape(lambda: tower.init(jax.random.key(0), inputs))["params"]


def by_path(tree):
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def factors(above, path):
    (found,) = (count for pattern, count in above.items() if re.search(pattern, path))
    return DECAY ** np.atleast_1d(np.float64(found))


@pytest.mark.parametrize(
    "tower, inputs, above",
    [
        (VIT, PICTURES, ABOVE_VIT),
        (Extend(extras=EXTRAS).module(VIT), PICTURES, ABOVE_VIT),
        (Extend(extras=(Tokens(count=2, deep=True),)).module(VIT), PICTURES, ABOVE_VIT),
        (TEXT, PIECES, ABOVE_TEXT),
        (ConvNet(widths=(8, 8), depth=2, hidden=8, embed=4), PICTURES, ABOVE_CONV),
        (ConvNet(widths=(8, 8), depth=0), PICTURES, {"^stem/": 2, "^shrink_1/": 1, "^(norm|h)": 0}),
        (ResNet(depths=(1, 2), width=8, embed=4, heads=2), PICTURES, ABOVE_RESNET),
    ],
    ids=["ViT", "extended", "deep prompts", "text", "ConvNet", "no residuals", "ResNet"],
)
def test_a_layer_is_slowed_by_the_layers_above_it(tower, inputs, above):
    params = {"image": shapes(tower, inputs)}
    for path, factor in by_path(layer_decay(params, DECAY, Towers.by_name(params))).items():
        np.testing.assert_allclose(
            np.ravel(factor), factors(above, path.removeprefix("image/")), err_msg=path
        )


@pytest.mark.parametrize("frozen", [None, "norm|head|block_1/"])
def test_a_step_is_that_of_the_rate_times_the_factor(frozen):
    """Layers that are frozen count, and so do multipliers."""
    rng = np.random.default_rng(0)
    params = {"image": shapes(VIT, PICTURES), "text": shapes(TEXT, PIECES), "objective": {"log_scale": 1.0}}
    params = jax.tree.map(lambda x: rng.normal(size=np.shape(x)).astype(np.float32), params)
    given = dict(lr=0.1, schedule=Constant(), frozen=frozen)

    def steps(**fields):
        tx = optim.make(Optim(**given, **fields), 10)
        return by_path(jax.jit(tx.update)(params, tx.init(params), params)[0])

    plain = steps()
    slowed = steps(layer_decay=DECAY, multipliers=(Multiplier(pattern="^text/", lr=3.0),))
    for path, step in slowed.items():
        tower, _, rest = path.partition("/")
        above = {"image": ABOVE_VIT, "text": ABOVE_TEXT, "objective": {"": 0}}[tower]
        wanted = factors(above, rest) * (3.0 if tower == "text" else 1.0)
        wanted = wanted.reshape(-1, *[1] * (max(step.ndim, 1) - 1))
        np.testing.assert_allclose(np.atleast_1d(step), np.atleast_1d(plain[path]) * wanted, rtol=1e-5)


def beside(towers):
    """What a fusion whose blocks are named as layers are, and a head that is named for a tower, have."""
    tokens_BSD = np.zeros((1, 6, 8), np.float32)
    encoded = {name: Encoded(tokens_BSD[:, 0], tokens_BSD) for name in towers}
    init = CrossAttention(width=8, heads=2).init
    fusion = jax.eval_shape(lambda: init(jax.random.key(0), encoded, dict.fromkeys(towers)))["params"]
    return {"fusion": fusion, "head": {"image": {"positions": jax.ShapeDtypeStruct((3,), np.float32)}}}


@pytest.mark.parametrize(
    "tune",
    [
        Full(),
        Lora(pattern="kernel$", rank=2),
        Extend(extras=(Adapters(width=2),)),
        Part(pattern="bias$"),
        Part(pattern="block_0/|blocks/"),
    ],
    ids=["full", "lora", "extend", "bias", "the lower layers"],
)
def test_whatever_of_towers_is_trained_each_has_its_own_depth_and_what_is_beside_them_none(tune):
    modules = {"image": (tune.module(VIT), PICTURES), "text": (tune.module(TEXT), PIECES)}
    all_params = {name: shapes(*module) for name, module in modules.items()}
    tuned = Tuned(tunes=dict.fromkeys(modules, tune), others=("head", "fusion"))
    start, fixed = tuned.start(all_params), tuned.fixed(all_params)
    trained = jax.eval_shape(lambda *parts: tuned.begin(jax.random.key(0), *parts), start, fixed)
    towers = tuned.towers(trained, fixed)
    found = by_path(layer_decay(trained | beside(modules), DECAY, towers))
    seen = set()
    for path, factor in found.items():
        kind, _, rest = path.removeprefix("lora/").partition("/")
        above = {"image": ABOVE_VIT, "text": ABOVE_TEXT}.get(kind, {"": 0})
        seen.add(kind)
        np.testing.assert_allclose(np.ravel(factor), factors(above, rest), err_msg=path)
    assert seen == {"image", "text", "fusion", "head"}


def test_a_tower_without_layers_keeps_its_rate_beside_one_that_has_some():
    params = {"image": shapes(VIT, PICTURES), "text": shapes(BAG, PIECES)}
    found = layer_decay(params, DECAY, Towers.by_name(params))
    assert set(jax.tree.leaves(found["text"])) == {1.0}


def test_a_decay_that_would_slow_nothing_is_refused():
    """Whatever layers the tower has that is not trained."""
    tx = optim.make(Optim(layer_decay=DECAY, frozen="^image/"), 10)
    message = "optim.layer_decay=0.5 slows nothing: .* no tower with modules block_0, .* but text/head/bias"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(tx.init, {"image": shapes(VIT, PICTURES), "text": shapes(BAG, PIECES)})
