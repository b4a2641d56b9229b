"""The vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) and what CLIP, SigLIP and PE-Core vary.

Letters: B batch, H W C image, P patch, S positions, D width, E embedding.
"""

from typing import Literal

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from mmjax.towers import Encoded, checking, pooling, positions
from mmjax.towers.dense import Dense
from mmjax.towers.layers import Encoder, per_head
from mmjax.towers.pooling import AttentionPool, Projection


class ViT(nn.Module):
    """Patches -> encoder -> pooled embedding.

    The encoder sees a class token where there is one, then registers, then patches row by row: `prefix` says
    how many come before the patches. Registers leave after the encoder; `pool` reads the rest:

    - `class`: the class token;
    - `mean`: the mean of the patches;
    - `map`, or an `AttentionPool` of other sizes than the encoder's: class token and patches;
    - `none`: nothing is pooled, and each patch has its own embedding: `embedding_BE` is [B, S, E].
    """

    width: int
    patch: int
    embed: int
    encoder: Encoder
    pool: Literal["class", "mean", "map", "none"] | AttentionPool = "mean"
    patch_bias: bool = True
    norm_before: bool = False  # CLIP normalises once before the first block
    # Added, or turned into angles of queries and keys ("rope"), or both; only "learned" has parameters, a row
    # a patch and one for a class token.
    positions: Literal["learned", "sincos2d", "rope", "learned+rope"] = "learned"
    class_token: bool = False  # kept even where `pool` does not need it
    registers: int = 0  # learned tokens without a place (Darcet et al. 2024, arXiv:2309.16588)
    patch_dropout: float = 0.0  # share of patches that training drops (Li et al. 2023, arXiv:2212.00794)
    norm_pooled: bool = False  # the last norm after pooling, in place of before
    projection: Projection = "linear"  # to `embed`

    @property
    def dtype(self) -> str:
        return self.encoder.dtype

    @property
    def has_class_token(self) -> bool:
        return self.class_token or self.pool == "class"

    @property
    def prefix(self) -> int:
        """Tokens of the encoder that come before the patches."""
        return self.has_class_token + self.registers

    @nn.compact
    def __call__(self, image_BHWC, *, train: bool = False) -> Encoded:
        """`tokens_BSD` are the patches.

        Raises:
            ValueError: the picture's sides are no multiples of `patch`, or a field is out of range.
        """
        self._check(image_BHWC.shape)
        grid = (image_BHWC.shape[1] // self.patch, image_BHWC.shape[2] // self.patch)
        x_BSD, angles_BSP = self._placed(image_BHWC, grid)
        if train and self.patch_dropout:
            x_BSD, angles_BSP = self._dropped(x_BSD, angles_BSP)
        x_BSD, angles_BSP = self._with_registers(x_BSD, angles_BSP)
        if self.norm_before:
            x_BSD = self._norm("norm_before", x_BSD)
        x_BSD = self.encoder(x_BSD, angles_BSP=angles_BSP, train=train)
        x_BSD = jnp.concatenate([x_BSD[:, : self.has_class_token], x_BSD[:, self.prefix :]], axis=1)
        if not self.norm_pooled:
            x_BSD = self._norm("norm", x_BSD)
        pooled_BD = self.pooled(x_BSD)
        if self.norm_pooled:
            pooled_BD = self._norm("norm", pooled_BD)
        embedding_BE = pooling.project(pooled_BD, self.embed, self.projection)
        return Encoded(embedding_BE, x_BSD[:, self.has_class_token :])

    def _placed(self, image_BHWC, grid):
        """Class token and patches with their positions added, and rotary angles [1, S, P] or None."""
        patches = einops.rearrange(
            image_BHWC, "b (h p) (w q) c -> b (h w) (p q c)", p=self.patch, q=self.patch
        )
        x_BSD = Dense(self.width, use_bias=self.patch_bias, dtype=self.dtype, name="patch")(patches)
        if self.has_class_token:
            x_BSD = jnp.concatenate([self._learned_tokens("class", 1, x_BSD), x_BSD], axis=1)
        start = nn.initializers.normal(self.width**-0.5)
        if self.positions.startswith("learned"):
            positions_SD = self.param("positions", start, (x_BSD.shape[1], self.width))
            x_BSD = x_BSD + positions_SD.astype(x_BSD.dtype)
        elif self.positions == "sincos2d":
            waves_SD = positions.sincos2d(*grid, self.width)
            x_BSD = x_BSD.at[:, self.has_class_token :].add(waves_SD.astype(x_BSD.dtype))
        if not self.positions.endswith("rope"):
            return x_BSD, None
        head_width = self.encoder.head_width or per_head(self.width, self.encoder.heads)
        angles_SP = positions.rope2d(*grid, head_width, first=int(self.has_class_token))
        return x_BSD, jnp.pad(angles_SP, ((int(self.has_class_token), 0), (0, 0)))[None]

    def _dropped(self, x_BSD, angles_BSP):
        """Class token and a random part of the patches, as many in every picture, in their order."""
        first = int(self.has_class_token)
        count = x_BSD.shape[1] - first
        kept = max(1, int(count * (1 - self.patch_dropout)))
        draws_BS = jax.random.uniform(self.make_rng("dropout"), (len(x_BSD), count))
        chosen_BS = jnp.sort(jnp.argsort(draws_BS, axis=1)[:, :kept], axis=1) + first
        chosen_BS = jnp.pad(chosen_BS, ((0, 0), (first, 0)))  # position 0 is the class token
        x_BSD = jnp.take_along_axis(x_BSD, chosen_BS[..., None], axis=1)
        return x_BSD, None if angles_BSP is None else angles_BSP[0][chosen_BS]

    def _with_registers(self, x_BSD, angles_BSP):
        if not self.registers:
            return x_BSD, angles_BSP
        at = int(self.has_class_token)
        tokens_BSD = self._learned_tokens("registers", self.registers, x_BSD)
        x_BSD = jnp.concatenate([x_BSD[:, :at], tokens_BSD, x_BSD[:, at:]], axis=1)
        if angles_BSP is not None:
            # Angle 0 is what a class token has, too: neither of them has a place.
            angles_BSP = jnp.pad(angles_BSP, ((0, 0), (self.registers, 0), (0, 0)))
        return x_BSD, angles_BSP

    def _learned_tokens(self, name, count, x_BSD):
        """[B, count, D]; a single token is stored as a vector."""
        shape = (self.width,) if name == "class" else (count, self.width)
        tokens_SD = self.param(name, nn.initializers.normal(self.width**-0.5), shape)
        return jnp.broadcast_to(tokens_SD.astype(x_BSD.dtype), (len(x_BSD), count, self.width))

    def _norm(self, name, x):
        return nn.LayerNorm(epsilon=self.encoder.norm_eps, dtype=self.dtype, name=name)(x)

    def pooled(self, x_BSD):
        """From class token and patches to [B, D], or [B, S, D] where nothing is pooled."""
        if self.pool == "class":
            return x_BSD[:, 0]
        if self.pool == "mean":
            return pooling.mean(x_BSD[:, self.has_class_token :])
        if self.pool == "none":
            return x_BSD[:, self.has_class_token :]
        if self.pool != "map":
            return self.pool(x_BSD)
        return pooling.attention_pool(self.encoder)(x_BSD)

    def _check(self, shape):
        checking.at_least(1, width=self.width, patch=self.patch)
        checking.at_least(0, registers=self.registers)
        checking.share(patch_dropout=self.patch_dropout)
        height, width = shape[1:3]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"an image of {height}x{width} pixels does not divide into patches of {self.patch}; "
                f"use sides that are multiples of {self.patch}"
            )
