"""Numbers that no tower can have are refused where its shapes are made, which is before the first step."""

import jax
import jax.numpy as jnp
import pytest

from mmjax import config
from mmjax.towers.conv import ConvNet
from mmjax.towers.layers import Encoder
from mmjax.towers.pooling import AttentionPool
from mmjax.towers.resnet import ResNet
from mmjax.towers.text import BagOfPieces, TextTransformer
from mmjax.towers.vit import ViT

ENCODER = Encoder(depth=2, heads=2)
VIT = ViT(width=16, patch=8, embed=8, encoder=ENCODER)
TEXT = TextTransformer(vocab=32, length=6, width=16, embed=8, encoder=ENCODER)
BAG = BagOfPieces(vocab=32, width=16, embed=8)
RESNET = ResNet(depths=(1, 1), width=8, embed=8)


def with_encoder(**fields):
    return VIT.clone(encoder=ENCODER.clone(**fields))


def shapes(tower):
    reads_text = isinstance(tower, (TextTransformer, BagOfPieces))
    inputs = jnp.zeros((2, 6), jnp.int32) if reads_text else jnp.zeros((2, 16, 16, 3))
    return jax.eval_shape(tower.init, jax.random.key(0), inputs)


@pytest.mark.parametrize(
    "tower, message",
    [
        (with_encoder(depth=0), "depth=0 must be 1 or more"),
        (with_encoder(heads=0), "heads=0 must be 1 or more"),
        (with_encoder(heads=0, head_width=8), "heads=0 must be 1 or more"),
        (with_encoder(heads=0).clone(positions="rope"), "heads=0 must be 1 or more"),
        (with_encoder(head_width=0), "head_width=0 must be 1 or more"),
        (with_encoder(mlp=0), "mlp=0 must be 1 or more"),
        (with_encoder(dropout=1.5), r"dropout=1.5 is a share; use a value in \[0, 1\)"),
        (with_encoder(drop_path=-0.1), r"drop_path=-0.1 is a share; use a value in \[0, 1\)"),
        (with_encoder(norm_eps=-1e-6), "norm_eps=-1e-06 must be positive"),
        (VIT.clone(width=0), "width=0 must be 1 or more"),
        (VIT.clone(patch=0), "patch=0 must be 1 or more"),
        (VIT.clone(embed=0), "embed=0 must be 1 or more"),
        (VIT.clone(registers=-1), "registers=-1 must be 0 or more"),
        (VIT.clone(patch_dropout=1.0), r"patch_dropout=1.0 is a share; use a value in \[0, 1\)"),
        (VIT.clone(pool=AttentionPool(heads=0)), "heads=0 must be 1 or more"),
        (VIT.clone(pool=AttentionPool(heads=2, mlp=0)), "mlp=0 must be 1 or more"),
        (TEXT.clone(vocab=0), "vocab=0 must be 1 or more"),
        (TEXT.clone(length=0), "length=0 must be 1 or more"),
        (BAG.clone(mlp=0), "mlp=0 must be 1 or more"),
        (BAG.clone(dropout=1.0), "dropout=1.0 is a share"),
        (RESNET.clone(depths=()), "stages=0 must be 1 or more"),
        (RESNET.clone(depths=(1, 0)), "depths.1=0 must be 1 or more"),
        (RESNET.clone(width=1), "width=1 must be 2 or more"),
        (RESNET.clone(heads=0), "heads=0 must be 1 or more"),
        (ConvNet(widths=(8, 0)), "widths.1=0 must be 1 or more"),
        (ConvNet(depth=-1), "depth=-1 must be 0 or more"),
        (ConvNet(stride=0), "stride=0 must be 1 or more"),
        (ConvNet(hidden=0), "hidden=0 must be 1 or more"),
        (ConvNet(dropout=float("nan")), "dropout=nan is a share"),
    ],
)
def test_numbers_out_of_range_are_refused(tower, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        shapes(tower)


@pytest.mark.parametrize(
    "arguments, overrides, path",
    [
        ("", ["towers.image.encoder.dtype=float15"], "towers.image.encoder.dtype"),
        ("", ["towers.text.encoder.dtype=float15"], "towers.text.encoder.dtype"),
        # What the file itself builds.
        (":dtype=float15", [], "configs/debug.py: towers.image.encoder.dtype"),
    ],
)
def test_a_type_that_towers_do_not_compute_in_is_refused_with_those_they_do(arguments, overrides, path):
    with pytest.raises(config.ConfigError, match=rf"^{path}: wanted 'float32' \| 'bfloat16', got 'float15'"):
        config.load(f"configs/debug.py{arguments}", overrides)
