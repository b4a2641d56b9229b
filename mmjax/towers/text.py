"""Text towers: a transformer, and a bag of pieces for machines where seconds count.

Letters: B batch, S positions, D width, E embedding, V vocabulary.
"""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn

from mmjax.towers import Dtype, Encoded, checking, pooling
from mmjax.towers.dense import Dense
from mmjax.towers.layers import Encoder, Mlp
from mmjax.towers.pooling import Projection

PAD = 0  # token id of padding
EOS = 1  # token id that ends every text


def lengths(tokens_BS, pad: int | None):
    """Int32 [B]: where the padding of each text begins; None where none is told from text."""
    if pad is None:
        return None
    ends_S = jnp.arange(1, tokens_BS.shape[1] + 1)
    return jnp.max(jnp.where(tokens_BS != pad, ends_S, 0), axis=1)


class TextTransformer(nn.Module):
    """Pieces -> encoder -> pooled embedding (Radford et al. 2021, arXiv:2103.00020, section 2.4).

    Padding, which ends a row, is attended to by nobody. With a causal encoder pool the end of text, where all
    is known. `last` is the last position of a row, padding or not, as SigLIP has it: there padding is a token
    like any other.
    """

    vocab: int
    length: int
    width: int
    embed: int
    encoder: Encoder
    pool: Literal["eos", "last", "mean", "map"] = "eos"
    projection: Projection = "linear"  # to `embed`
    eos: int = EOS
    pad: int | None = PAD  # None: padding is a token like any other, as SigLIP and CLIPA have it

    @property
    def dtype(self) -> str:
        return self.encoder.dtype

    @nn.compact
    def __call__(self, tokens_BS, *, train: bool = False) -> Encoded:
        """Raises ValueError where a text is longer than `length`, a projection does not fit, or a field is
        out of range."""
        checking.at_least(1, vocab=self.vocab, length=self.length, width=self.width)
        if tokens_BS.shape[1] > self.length:
            raise ValueError(f"texts of {tokens_BS.shape[1]} tokens, but the tower has length={self.length}")
        # Both small, as CLIP's: a word's place must not drown in the word.
        start = nn.initializers.normal(0.02)
        pieces = nn.Embed(self.vocab, self.width, embedding_init=start, dtype=self.dtype, name="pieces")
        x_BSD = pieces(tokens_BS)
        positions_SD = self.param("positions", nn.initializers.normal(0.01), (self.length, self.width))
        x_BSD = x_BSD + positions_SD[: tokens_BS.shape[1]].astype(x_BSD.dtype)
        lengths_B = None if self.pool == "last" else lengths(tokens_BS, self.pad)
        # Under a causal mask padding follows all that counts, so it needs no mask of its own.
        x_BSD = self.encoder(x_BSD, lengths_B=None if self.encoder.causal else lengths_B, train=train)
        x_BSD = nn.LayerNorm(epsilon=self.encoder.norm_eps, dtype=self.dtype, name="norm")(x_BSD)
        pooled_BD = self._pooled(x_BSD, tokens_BS, lengths_B)
        return Encoded(pooling.project(pooled_BD, self.embed, self.projection), x_BSD)

    def _pooled(self, x_BSD, tokens_BS, lengths_B):
        if self.pool == "eos":
            return pooling.at_end(x_BSD, tokens_BS, self.eos)
        if self.pool == "last":
            return x_BSD[:, -1]
        if self.pool == "mean":
            return pooling.mean(x_BSD, lengths_B)
        return pooling.attention_pool(self.encoder)(x_BSD, lengths_B)


class BagOfPieces(nn.Module):
    """The sum of piece embeddings over sqrt(number of pieces), then one residual MLP: blind to word order,
    and on a CPU twice as fast a step as a small transformer."""

    vocab: int
    width: int
    embed: int
    mlp: int | None = None  # None: 2 x width
    dropout: float = 0.0  # share of whole pieces that training hides
    pad: int = PAD
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, tokens_BS, *, train: bool = False) -> Encoded:
        checking.at_least(1, vocab=self.vocab, width=self.width, embed=self.embed, mlp=self.mlp)
        checking.share(dropout=self.dropout)
        x_BSD = nn.Embed(self.vocab, self.width, dtype=self.dtype, name="pieces")(tokens_BS)
        x_BSD = nn.Dropout(self.dropout, broadcast_dims=(2,), deterministic=not train)(x_BSD)
        real_BS1 = (tokens_BS != self.pad)[..., None].astype(x_BSD.dtype)
        count_B1 = jnp.maximum(real_BS1.sum(axis=1), 1)
        x_BD = (x_BSD * real_BS1).sum(axis=1) / jnp.sqrt(count_B1)
        y_BD = nn.LayerNorm(dtype=self.dtype, name="norm")(x_BD)
        mlp = 2 * self.width if self.mlp is None else self.mlp
        x_BD = x_BD + Mlp(mlp=mlp, dtype=self.dtype, name="mlp")(y_BD)
        return Encoded(Dense(self.embed, dtype=self.dtype, name="head")(x_BD), x_BSD)
