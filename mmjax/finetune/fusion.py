"""Fusion: from what several towers say of an example to what the heads are given.

A **fusion** is a Flax Linen module that is called with what each tower gives, and how many of its tokens are
real, by modality. It computes in float32. All but `Only` and `CrossAttention` fuse embeddings of any number
of towers, each brought to a root mean square of 1, so that none drowns the others; the heads' one token is
then the fused embedding. Letters: B batch, S positions, D width, E embedding, M modalities.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from mmjax.model import unit
from mmjax.towers import Encoded, checking, pooling
from mmjax.towers.dense import Dense
from mmjax.towers.layers import Attention, Mlp

Lengths = dict[str, Array | None]

_PLACES = 0.5  # standard deviation of learned places at first, beside tokens of about 1


class Fused(NamedTuple):
    """What a head is given."""

    encoded: Encoded
    lengths_B: Array | None  # how many of the tokens are real; None: all


class Only(nn.Module):
    """One tower, whose word is passed on."""

    def __call__(self, encoded: dict[str, Encoded], lengths: Lengths, *, train: bool = False) -> Fused:
        """Raises ValueError where there are several towers."""
        if len(encoded) != 1:
            raise ValueError(
                f"towers={sorted(encoded)} need a fusion, such as fusion=fusion.Concat(); or leave one tower"
            )
        (modality,) = encoded
        return Fused(encoded[modality], lengths[modality])


class Concat(nn.Module):
    """All embeddings side by side."""

    def __call__(self, encoded: dict[str, Encoded], lengths: Lengths, *, train: bool = False) -> Fused:
        return _fused(jnp.concatenate(_embeddings(encoded), axis=1))


class Mean(nn.Module):
    """The mean of embeddings of one width."""

    def __call__(self, encoded: dict[str, Encoded], lengths: Lengths, *, train: bool = False) -> Fused:
        return _fused(_stacked(encoded).mean(axis=1))


class Weighted(nn.Module):
    """A mean of embeddings of one width by learned weights, the same for all examples; they begin alike."""

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], lengths: Lengths, *, train: bool = False) -> Fused:
        weight_M = jax.nn.softmax(self.param("weights", nn.initializers.zeros, (len(encoded),)))
        return _fused(jnp.einsum("m,bme->be", weight_M, _stacked(encoded)))


class Gated(nn.Module):
    """Each modality's hidden features, weighted in every example by gates that see all modalities: the gated
    multimodal unit (Arevalo et al. 2017, arXiv:1702.01992, eq. 1-5). Its gates are a softmax over modalities,
    which of two is the paper's sigmoid."""

    width: int = 128

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], lengths: Lengths, *, train: bool = False) -> Fused:
        checking.at_least(1, width=self.width)
        z = dict(zip(encoded, _embeddings(encoded), strict=True))
        hidden = [jnp.tanh(Dense(self.width, name=f"hidden_{name}")(x_BE)) for name, x_BE in z.items()]
        all_BE = jnp.concatenate(list(z.values()), axis=1)
        gates = [Dense(self.width, name=f"gate_{name}")(all_BE) for name in z]
        gate_BMD = jax.nn.softmax(jnp.stack(gates, axis=1), axis=1)
        return _fused(jnp.sum(gate_BMD * jnp.stack(hidden, axis=1), axis=1))


class CrossAttention(nn.Module):
    """Tokens of one tower attend to themselves and to those of the other, as the text does to a picture's
    patches in ALBEF (Li et al. 2021, arXiv:2107.07651, section 3.1), layer by layer; the embedding is the
    mean of what they have become beside the towers' embeddings, which know what no patch alone does.

    Tokens are given learned places, since those of a convolution or of a bag of pieces need not tell theirs.
    """

    width: int = 128
    depth: int = 2
    heads: int = 4
    asks: str = "text"  # the modality whose tokens attend to the other's
    mlp: int | None = None  # None: 4 x width
    dropout: float = 0.0

    @nn.compact
    def __call__(self, encoded: dict[str, Encoded], lengths: Lengths, *, train: bool = False) -> Fused:
        """Raises ValueError where there are not two towers, or one gives no tokens."""
        checking.at_least(1, width=self.width, depth=self.depth, heads=self.heads, mlp=self.mlp)
        checking.share(dropout=self.dropout)
        others = [name for name in encoded if name != self.asks]
        if self.asks not in encoded or len(others) != 1:
            raise ValueError(
                f"cross-attention is of {self.asks!r} to one other tower, but towers={sorted(encoded)}; give "
                "two towers, and as fusion.asks one of these"
            )
        x_BSD, context_BTD = (self._tokens(name, encoded[name]) for name in (self.asks, *others))
        lengths_B, context_lengths_B = lengths[self.asks], lengths[others[0]]
        for i in range(self.depth):
            block = CrossBlock(
                heads=self.heads, mlp=self.mlp or 4 * self.width, dropout=self.dropout, name=f"block_{i}"
            )
            x_BSD = block(x_BSD, lengths_B, context_BTD, context_lengths_B, train=train)
        x_BSD = nn.LayerNorm(name="norm")(x_BSD)
        pooled = [pooling.mean(x_BSD, lengths_B), *_embeddings(encoded)]
        return Fused(Encoded(jnp.concatenate(pooled, axis=1), x_BSD), lengths_B)

    def _tokens(self, name: str, encoded: Encoded):
        x_BSD = encoded.tokens_BSD
        if x_BSD is None or x_BSD.ndim != 3:
            shape = None if x_BSD is None else list(x_BSD.shape)
            raise ValueError(
                f"cross-attention needs tokens [B, S, D], but of those the {name} tower gives {shape}; use "
                "another tower, or a fusion of embeddings such as fusion.Concat()"
            )
        x_BSD = nn.LayerNorm(name=f"norm_{name}")(x_BSD.astype(jnp.float32))
        x_BSD = Dense(self.width, name=f"tokens_{name}")(x_BSD)
        start = nn.initializers.normal(_PLACES)
        return x_BSD + self.param(f"positions_{name}", start, x_BSD.shape[1:])


class CrossBlock(nn.Module):
    """Attention to the own tokens, to the other tower's, and an MLP: a pre-norm block with three branches."""

    heads: int
    mlp: int
    dropout: float

    @nn.compact
    def __call__(self, x_BSD, lengths_B, context_BTD, context_lengths_B, *, train: bool):
        """`lengths_B`, `context_lengths_B`: where the padding of the tokens begins; None for none."""

        def branch(x_BSD, y_BSD):
            return x_BSD + nn.Dropout(self.dropout, deterministic=not train)(y_BSD)

        def norm(name, x_BSD):
            return nn.LayerNorm(name=f"norm_{name}")(x_BSD)

        own = Attention(heads=self.heads, name="attention")
        x_BSD = branch(x_BSD, own(norm("attention", x_BSD), lengths_B=lengths_B))
        cross = Attention(heads=self.heads, name="cross")
        y_BSD = cross(norm("cross", x_BSD), context_BTD=context_BTD, lengths_B=context_lengths_B)
        x_BSD = branch(x_BSD, y_BSD)
        return branch(x_BSD, Mlp(mlp=self.mlp, name="mlp")(norm("mlp", x_BSD)))


def _embeddings(encoded: dict[str, Encoded]) -> list[Array]:
    """Float32 [B, E] of each modality, of root mean square 1."""
    for name, of_tower in encoded.items():
        if of_tower.embedding_BE.ndim != 2:
            raise ValueError(
                f"the {name} tower gives {list(of_tower.embedding_BE.shape)}, not one embedding an example; "
                "use a tower that pools"
            )
    return [unit(x.embedding_BE) * x.embedding_BE.shape[1] ** 0.5 for x in encoded.values()]


def _stacked(encoded: dict[str, Encoded]):
    """[B, M, E]; raises ValueError where widths differ."""
    found = _embeddings(encoded)
    if len({x.shape[1] for x in found}) != 1:
        widths = ", ".join(f"{name} has {x.shape[1]}" for name, x in zip(encoded, found, strict=True))
        raise ValueError(
            f"a mean needs embeddings of one width, but {widths}; use fusion.Concat() or Gated()"
        )
    return jnp.stack(found, axis=1)


def _fused(embedding_BE) -> Fused:
    return Fused(Encoded(embedding_BE, embedding_BE[:, None]), None)
