"""configs/emoji.py with plain transformers for both towers, for the comparison in docs/results.md."""

import dataclasses

from configs import emoji
from mmjax.towers.layers import Encoder
from mmjax.towers.text import TextTransformer
from mmjax.towers.vit import ViT


def get_config(steps: int = 2_400, seed: int = 0):
    cfg = emoji.get_config(steps=steps, seed=seed)
    towers = {
        "image": ViT(
            width=128, patch=8, embed=128, encoder=Encoder(depth=4, heads=2, dropout=0.1, scan=False)
        ),
        "text": TextTransformer(
            vocab=emoji.VOCAB,
            length=emoji.LENGTH,
            width=128,
            embed=128,
            encoder=Encoder(depth=2, heads=2, causal=True, dropout=0.1, scan=False),
        ),
    }
    return dataclasses.replace(cfg, towers=towers, optim=dataclasses.replace(cfg.optim, lr=1e-3))
