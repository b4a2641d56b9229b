"""Layer-wise decay in a finetune, by what its steps move."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tinyclass
import tinycontrast
from flax import linen as nn

from mmjax.finetune import Backbone
from mmjax.finetune.tune import Full, Lora, Part
from mmjax.optim import Constant, Optim
from mmjax.towers import Encoded
from mmjax.towers.layers import Encoder
from mmjax.towers.text import TextTransformer
from mmjax.towers.vit import ViT


class Layers(nn.Module):
    """Two layers on all pixels."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, inputs, *, train=False):
        x_BE = nn.Dense(tinyclass.EMBED, name="block_0")(jnp.reshape(inputs, (len(inputs), -1)))
        x_BE = nn.Dense(tinyclass.EMBED, name="block_1")(x_BE)
        return Encoded(x_BE, x_BE[:, None])


@pytest.mark.parametrize("tune", [Full(), Part(pattern="block_0/")], ids=lambda tune: type(tune).__name__)
def test_a_lower_layer_is_slower_whichever_layers_are_trained(tune):
    tower = dict(module=Layers(), tune=tune)

    def moved(decay):
        """How far the first step took the head, and the second one, which is the towers' first, these."""
        given = Optim(lr=0.05, schedule=Constant(), layer_decay=decay)
        (first, second, last), _ = tinyclass.states(tinyclass.config(tower=tower, optim=given), 2)
        steps = jax.tree.map(lambda a, b, c: (b - a, c - b), *(s["params"] for s in (first, second, last)))
        image = {name: layer["kernel"][1] for name, layer in steps["image"].items()}
        return steps["head"]["class"]["logits"]["kernel"][0], image

    (slow_head, slow), (head, fast) = moved(0.5), moved(None)
    np.testing.assert_array_equal(slow_head, head)
    assert np.abs(fast["block_0"]).max() > 0
    for name, above in {"block_0": 2, "block_1": 1}.items():
        if name in slow:
            np.testing.assert_allclose(slow[name], 0.5**above * fast[name], rtol=1e-3, atol=1e-6)


def test_low_rank_changes_of_towers_of_other_depths_have_the_rates_of_their_layers(tmp_path):
    deep = ViT(width=8, patch=8, embed=tinycontrast.EMBED, encoder=Encoder(depth=3, heads=2))
    pieces = TextTransformer(
        vocab=tinycontrast.TOKENIZER.vocab,
        length=12,
        width=8,
        embed=tinycontrast.EMBED,
        encoder=Encoder(depth=2, heads=2, causal=True),
    )
    workdir = tinycontrast.finished(tmp_path / "deep", towers={"image": deep, "text": pieces})
    slowed = Optim(lr=0.01, layer_decay=0.5)
    towers = {name: Backbone(tune=Lora(pattern="kernel$", rank=2)) for name in ("image", "text")}
    _, step, state, _ = tinycontrast.begun(tinycontrast.contrast(workdir, towers=towers, optim=slowed))
    before = state["params"]["lora"]
    after = step(state, tinycontrast.batch())[0]["params"]["lora"]
    # Adam's first step is the rate itself where there is a gradient.
    for name, depth in (("image", 3), ("text", 2)):
        up = ("encoder", "blocks", "mlp", "up", "kernel", "b")
        moved = functools.reduce(lambda x, key: x[key], up, jax.tree.map(jnp.subtract, after, before)[name])
        rates = 0.01 * 0.5 ** (depth - np.arange(depth))
        np.testing.assert_allclose(np.abs(moved).max(axis=(1, 2)), rates, rtol=1e-3)
