"""The vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), with CLIP's variations.

Letters: B batch, H W C image, P patch, S positions, D width, E embedding.
"""

from typing import Literal

import einops
import jax.numpy as jnp
from flax import linen as nn

from mmjax.towers import Encoded
from mmjax.towers.dense import Dense
from mmjax.towers.layers import AttentionPool, Encoder


class ViT(nn.Module):
    """Patches -> encoder -> pooled embedding."""

    width: int
    patch: int
    embed: int
    encoder: Encoder
    pool: Literal["class", "mean", "map"] = "mean"
    patch_bias: bool = True
    norm_before: bool = False  # CLIP normalises once before the first block

    @property
    def dtype(self) -> str:
        return self.encoder.dtype

    @nn.compact
    def __call__(self, image_BHWC, *, train: bool = False) -> Encoded:
        """Raises ValueError where the picture's sides are no multiples of `patch`."""
        height, width = image_BHWC.shape[1:3]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"an image of {height}x{width} pixels does not divide into patches of {self.patch}; "
                f"use sides that are multiples of {self.patch}"
            )
        patches = einops.rearrange(
            image_BHWC, "b (h p) (w q) c -> b (h w) (p q c)", p=self.patch, q=self.patch
        )
        x_BSD = Dense(self.width, use_bias=self.patch_bias, dtype=self.dtype, name="patch")(patches)
        if self.pool == "class":
            class_D = self.param("class", nn.initializers.normal(self.width**-0.5), (self.width,))
            class_BSD = jnp.broadcast_to(class_D.astype(x_BSD.dtype), (len(x_BSD), 1, self.width))
            x_BSD = jnp.concatenate([class_BSD, x_BSD], axis=1)
        positions_SD = self.param(
            "positions", nn.initializers.normal(self.width**-0.5), (x_BSD.shape[1], self.width)
        )
        x_BSD = x_BSD + positions_SD.astype(x_BSD.dtype)
        if self.norm_before:
            x_BSD = self._norm("norm_before")(x_BSD)
        x_BSD = self._norm("norm")(self.encoder(x_BSD, train=train))
        pooled_BD, tokens_BSD = self._pool(x_BSD)
        return Encoded(
            Dense(self.embed, use_bias=False, dtype=self.dtype, name="head")(pooled_BD), tokens_BSD
        )

    def _norm(self, name):
        return nn.LayerNorm(epsilon=self.encoder.norm_eps, dtype=self.dtype, name=name)

    def _pool(self, x_BSD):
        if self.pool == "class":
            return x_BSD[:, 0], x_BSD[:, 1:]
        if self.pool == "mean":
            return x_BSD.mean(axis=1), x_BSD
        pool = AttentionPool(heads=self.encoder.heads, mlp=self.encoder.mlp, dtype=self.dtype, name="pool")
        return pool(x_BSD), x_BSD
