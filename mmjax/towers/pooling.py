"""From tokens to one vector: attention with a learned query, the end of a text, the mean of what is real; and
from that to the embedding.

Letters: B batch, S positions, D width, E embedding.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmjax.towers import checking
from mmjax.towers.dense import Dense
from mmjax.towers.layers import Activation, Attention, Encoder, Mlp

Projection = Literal["linear", "affine", "none"]  # affine adds a bias


class AttentionPool(nn.Module):
    """Pools by attention of one learned query, then an MLP: the MAP head of Zhai et al. 2022,
    arXiv:2106.04560, appendix A, after Lee et al. 2019, arXiv:1810.00825. It computes in its input's dtype.
    """

    heads: int
    mlp: int | None = None  # None: 4 x width
    activation: Activation = "gelu_tanh"
    norm_eps: float = 1e-6

    @nn.compact
    def __call__(self, x_BSD, lengths_B=None):
        """Tokens of an example from `lengths_B` on do not count; None: all do."""
        checking.at_least(1, mlp=self.mlp)
        checking.positive(norm_eps=self.norm_eps)
        width, dtype = x_BSD.shape[-1], str(x_BSD.dtype)
        probe_SD = self.param("probe", nn.initializers.xavier_uniform(), (1, width))
        probe_BSD = jnp.broadcast_to(probe_SD.astype(dtype), (len(x_BSD), 1, width))
        attend = Attention(heads=self.heads, dtype=dtype, name="attention")
        x_BSD = attend(probe_BSD, lengths_B=lengths_B, context_BTD=x_BSD)
        y_BSD = nn.LayerNorm(epsilon=self.norm_eps, dtype=dtype, name="norm")(x_BSD)
        mlp = Mlp(
            mlp=4 * width if self.mlp is None else self.mlp,
            activation=self.activation,
            dtype=dtype,
            name="mlp",
        )
        return (x_BSD + mlp(y_BSD))[:, 0]


def attention_pool(encoder: Encoder) -> AttentionPool:
    """A pool of the encoder's sizes, as part `pool` of the tower that calls this."""
    return AttentionPool(
        heads=encoder.heads,
        mlp=encoder.mlp,
        activation=encoder.activation,
        norm_eps=encoder.norm_eps,
        name="pool",
    )


def project(x, embed: int, projection: Projection):
    """`x` [..., D] as [..., E], by part `head` of the tower that calls this.

    Raises:
        ValueError: nothing projects, and the widths differ.
    """
    checking.at_least(1, embed=embed)
    if projection != "none":
        return Dense(embed, use_bias=projection == "affine", dtype=str(x.dtype), name="head")(x)
    if x.shape[-1] != embed:
        raise ValueError(
            f"projection='none' leaves embeddings of the tower's width, {x.shape[-1]}, but embed={embed}; "
            f"use embed={x.shape[-1]} or a projection"
        )
    return x


def at_end(x_BSD, tokens_BS, eos: int) -> jax.Array:
    """[B, D]: each text's first `eos`, its last position where it has none."""
    is_eos_BS = tokens_BS == eos
    end_B = jnp.where(is_eos_BS.any(axis=1), is_eos_BS.argmax(axis=1), tokens_BS.shape[1] - 1)
    return jnp.take_along_axis(x_BSD, end_B[:, None, None], axis=1)[:, 0]


def mean(x_BSD, lengths_B=None) -> jax.Array:
    """[B, D]: the mean over the first `lengths_B` positions; None for all."""
    if lengths_B is None:
        return x_BSD.mean(axis=1)
    weight_BS1 = (jnp.arange(x_BSD.shape[1]) < lengths_B[:, None])[..., None].astype(x_BSD.dtype)
    return (x_BSD * weight_BS1).sum(axis=1) / jnp.maximum(weight_BS1.sum(axis=1), 1)
