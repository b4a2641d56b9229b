"""Parts that the transformer towers share.

Letters: B batch, S positions, D width, F MLP width, N heads, K head width, L layers.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmjax.sharding import constrain
from mmjax.towers.dense import Dense

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]
Remat = Literal["none", "full", "dots"]

_ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5)),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@functools.partial(jax.checkpoint, static_argnums=1, prevent_cse=False)
def _activate(x, activation: Activation):
    """In float32, which a CPU does thrice as fast as bfloat16; the backward pass starts from `x` again,
    so that a scan over layers has fewer arrays to stack."""
    return _ACTIVATIONS[activation](x.astype(jnp.float32)).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2)."""

    heads: int
    head_width: int
    causal: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x_BSD, mask_BS=None):
        """`mask_BS`: True where a position may be attended to; None for everywhere."""

        def project(name):
            return Dense((self.heads, self.head_width), dtype=self.dtype, name=name)(x_BSD)

        mask_BNSS = None if mask_BS is None else mask_BS[:, None, None, :]
        y_BSNK = jax.nn.dot_product_attention(
            project("query"), project("key"), project("value"), mask=mask_BNSS, is_causal=self.causal
        )
        return Dense(x_BSD.shape[-1], axes=2, dtype=self.dtype, name="out")(y_BSNK)


class Mlp(nn.Module):
    """Two dense layers with an activation between them."""

    mlp: int
    activation: Activation = "gelu_tanh"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x_BSD):
        x_BSF = Dense(self.mlp, dtype=self.dtype, name="up")(x_BSD)
        x_BSF = _activate(x_BSF, self.activation)
        return Dense(x_BSD.shape[-1], dtype=self.dtype, name="down")(x_BSF)


class Block(nn.Module):
    """A pre-norm transformer block (Xiong et al. 2020, arXiv:2002.04745)."""

    heads: int
    head_width: int
    mlp: int
    causal: bool
    activation: Activation
    norm_eps: float
    dropout: float
    train: bool
    dtype: str

    @nn.compact
    def __call__(self, x_BSD, mask_BS):
        def norm(name):
            return nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name=name)

        def drop(y_BSD):
            return nn.Dropout(self.dropout, deterministic=not self.train)(y_BSD)

        x_BSD = constrain(x_BSD, "batch", None, None)
        attend = Attention(
            heads=self.heads,
            head_width=self.head_width,
            causal=self.causal,
            dtype=self.dtype,
            name="attention",
        )
        x_BSD = x_BSD + drop(attend(norm("norm_attention")(x_BSD), mask_BS))
        mlp = Mlp(mlp=self.mlp, activation=self.activation, dtype=self.dtype, name="mlp")
        x_BSD = x_BSD + drop(mlp(norm("norm_mlp")(x_BSD)))
        return x_BSD, None


class Encoder(nn.Module):
    """`depth` blocks, scanned over a leading layer axis of their parameters, or unrolled.

    Scanned, XLA compiles one block however deep the tower. `remat` recomputes a block's activations in the
    backward pass: all of them (`full`), or all but the matrix products with weights (`dots`).
    """

    depth: int
    heads: int
    head_width: int | None = None  # None: width / heads
    mlp: int | None = None  # None: 4 x width
    causal: bool = False
    activation: Activation = "gelu_tanh"
    norm_eps: float = 1e-6
    dropout: float = 0.0
    remat: Remat = "none"
    scan: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x_BSD, mask_BS=None, *, train: bool = False):
        """`mask_BS`: True where a position may be attended to; None for everywhere."""
        block = Block
        if self.remat != "none":
            # Under scan the loop already keeps XLA from merging the recomputation away.
            block = nn.remat(block, policy=_POLICIES[self.remat], prevent_cse=not self.scan)
        width = x_BSD.shape[-1]
        fields = dict(
            heads=self.heads,
            head_width=width // self.heads if self.head_width is None else self.head_width,
            mlp=4 * width if self.mlp is None else self.mlp,
            causal=self.causal,
            activation=self.activation,
            norm_eps=self.norm_eps,
            dropout=self.dropout,
            train=train,
            dtype=self.dtype,
        )
        x_BSD = x_BSD.astype(self.dtype)
        if not self.scan:
            for i in range(self.depth):
                x_BSD, _ = block(**fields, name=f"block_{i}")(x_BSD, mask_BS)
            return x_BSD
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=self.depth,
        )
        return layers(**fields, name="blocks")(x_BSD, mask_BS)[0]


class AttentionPool(nn.Module):
    """Pools by attention of one learned query, then an MLP: the MAP head of Zhai et al. 2022,
    arXiv:2106.04560, appendix A, after Lee et al. 2019, arXiv:1810.00825."""

    heads: int
    mlp: int | None = None  # None: 4 x width
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x_BSD):
        width = x_BSD.shape[-1]
        probe_SD = self.param("probe", nn.initializers.xavier_uniform(), (1, width))
        probe_BSD = jnp.broadcast_to(probe_SD.astype(x_BSD.dtype), (x_BSD.shape[0], 1, width))
        attend = nn.MultiHeadDotProductAttention(num_heads=self.heads, dtype=self.dtype, name="attention")
        x_BSD = attend(probe_BSD, x_BSD, x_BSD)
        y_BSD = nn.LayerNorm(dtype=self.dtype, name="norm")(x_BSD)
        mlp = 4 * width if self.mlp is None else self.mlp
        return (x_BSD + Mlp(mlp=mlp, dtype=self.dtype, name="mlp")(y_BSD))[:, 0]
