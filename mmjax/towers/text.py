"""Text towers: a transformer, and a bag of pieces for machines where seconds count.

Letters: B batch, S positions, D width, E embedding, V vocabulary.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmjax.towers import Encoded
from mmjax.towers.dense import Dense
from mmjax.towers.layers import Encoder, Mlp

PAD = 0  # token id of padding
EOS = 1  # token id that ends every text


class TextTransformer(nn.Module):
    """Pieces -> encoder -> pooled embedding (Radford et al. 2021, arXiv:2103.00020, section 2.4).

    Padding is attended to by nobody. With a causal encoder pool the end of text, where all is known.
    """

    vocab: int
    length: int
    width: int
    embed: int
    encoder: Encoder
    pool: Literal["eos", "mean"] = "eos"

    @property
    def dtype(self) -> str:
        return self.encoder.dtype

    @nn.compact
    def __call__(self, tokens_BS, *, train: bool = False) -> Encoded:
        """Raises ValueError where a text is longer than `length`."""
        if tokens_BS.shape[1] > self.length:
            raise ValueError(f"texts of {tokens_BS.shape[1]} tokens, but the tower has length={self.length}")
        # Both small, as CLIP's: a word's place must not drown in the word.
        start = nn.initializers.normal(0.02)
        pieces = nn.Embed(self.vocab, self.width, embedding_init=start, dtype=self.dtype, name="pieces")
        x_BSD = pieces(tokens_BS)
        positions_SD = self.param("positions", nn.initializers.normal(0.01), (self.length, self.width))
        x_BSD = x_BSD + positions_SD[: tokens_BS.shape[1]].astype(x_BSD.dtype)
        real_BS = tokens_BS != PAD
        # Under a causal mask padding follows all that counts, so it needs no mask of its own.
        x_BSD = self.encoder(x_BSD, None if self.encoder.causal else real_BS, train=train)
        x_BSD = nn.LayerNorm(epsilon=self.encoder.norm_eps, dtype=self.dtype, name="norm")(x_BSD)
        if self.pool == "eos":
            pooled_BD = jnp.take_along_axis(x_BSD, _first_eos(tokens_BS)[:, None, None], axis=1)[:, 0]
        else:
            pooled_BD = _mean_of_real(x_BSD, real_BS)
        return Encoded(Dense(self.embed, use_bias=False, dtype=self.dtype, name="head")(pooled_BD), x_BSD)


class BagOfPieces(nn.Module):
    """The sum of piece embeddings over sqrt(number of pieces), then one residual MLP: blind to word order,
    and on a CPU twice as fast a step as a small transformer."""

    vocab: int
    width: int
    embed: int
    mlp: int | None = None  # None: 2 x width
    dropout: float = 0.0  # share of whole pieces that training hides
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens_BS, *, train: bool = False) -> Encoded:
        x_BSD = nn.Embed(self.vocab, self.width, dtype=self.dtype, name="pieces")(tokens_BS)
        x_BSD = nn.Dropout(self.dropout, broadcast_dims=(2,), deterministic=not train)(x_BSD)
        real_BS1 = (tokens_BS != PAD)[..., None].astype(x_BSD.dtype)
        count_B1 = jnp.maximum(real_BS1.sum(axis=1), 1)
        x_BD = (x_BSD * real_BS1).sum(axis=1) / jnp.sqrt(count_B1)
        y_BD = nn.LayerNorm(dtype=self.dtype, name="norm")(x_BD)
        mlp = 2 * self.width if self.mlp is None else self.mlp
        x_BD = x_BD + Mlp(mlp=mlp, dtype=self.dtype, name="mlp")(y_BD)
        return Encoded(Dense(self.embed, dtype=self.dtype, name="head")(x_BD), x_BSD)


def _first_eos(tokens_BS) -> jax.Array:
    """Position [B] of the first end of text, of the last token where a text has none."""
    is_eos_BS = tokens_BS == EOS
    return jnp.where(is_eos_BS.any(axis=1), is_eos_BS.argmax(axis=1), tokens_BS.shape[1] - 1)


def _mean_of_real(x_BSD, real_BS) -> jax.Array:
    weight_BS1 = real_BS[..., None].astype(x_BSD.dtype)
    return (x_BSD * weight_BS1).sum(axis=1) / jnp.maximum(weight_BS1.sum(axis=1), 1)
