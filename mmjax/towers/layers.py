"""Parts that the transformer towers share.

Letters: B batch, S positions, T positions attended to, D width, F MLP width, N heads, K head width,
X = N x K, P pairs of K, L layers.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmjax.kernels.attention import SAVED, Implementation, attention
from mmjax.sharding import constrain
from mmjax.towers import Dtype, checking
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
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(SAVED),
    ),
}


@functools.partial(jax.checkpoint, static_argnums=1, prevent_cse=False)
def _activate(x, activation: Activation):
    """In float32, which a CPU does thrice as fast as bfloat16; the backward pass starts from `x` again,
    so that a scan over layers has fewer arrays to stack."""
    return _ACTIVATIONS[activation](x.astype(jnp.float32)).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2), of `x_BSD` to itself or to
    a context."""

    heads: int
    head_width: int | None = None  # None: width / heads
    out: int | None = None  # width of the result; None: that of the input
    causal: bool = False
    qk_norm: bool = False  # normalises queries and keys (Dehghani et al. 2023, arXiv:2302.05442)
    implementation: Implementation = "auto"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x_BSD, *, segments_BS=None, lengths_B=None, angles_BSP=None, context_BTD=None):
        """
        Args:
            segments_BS, lengths_B: who sees whom, as `Encoder` has it; lengths are those of the context.
            angles_BSP: rotary angles of queries and keys (`positions.rope2d`); None rotates nothing.
            context_BTD: what is attended to, another sequence than `x_BSD`; None: `x_BSD` itself.
        """
        checking.at_least(1, heads=self.heads, head_width=self.head_width, out=self.out)
        cross = context_BTD is not None
        context_BTD = x_BSD if context_BTD is None else context_BTD
        shape = (self.heads, self.head_width or per_head(x_BSD.shape[-1], self.heads))

        def project(x, name):
            return Dense(shape, dtype=self.dtype, name=name)(x)

        y_BSX = self.mix(
            project(x_BSD, "query"),
            project(context_BTD, "key"),
            project(context_BTD, "value"),
            qk_norm=self._gains(shape[1]) if self.qk_norm else None,
            angles=angles_BSP,
            lengths=lengths_B,
            segment_ids=segments_BS,
            cross=cross,
        )
        return Dense(self.out or x_BSD.shape[-1], inputs=shape, dtype=self.dtype, name="out")(y_BSX)

    def mix(self, query_BSX, key_BTX, value_BTX, **options):
        """What every position sees; a method, so that maps of relevance find the weights of it."""
        return attention(
            query_BSX,
            key_BTX,
            value_BTX,
            num_heads=self.heads,
            causal=self.causal,
            implementation=self.implementation,
            **options,
        )

    def _gains(self, head_width):
        """Of normalised queries and keys."""
        return tuple(_Gain(head_width, name=f"norm_{name}")() for name in ("query", "key"))


class _Gain(nn.Module):
    """The parameter of a norm that is computed elsewhere."""

    width: int

    @nn.compact
    def __call__(self):
        return self.param("scale", nn.initializers.ones, (self.width,))


def per_head(width: int, heads: int) -> int:
    """The width of one of `heads` that share `width`.

    Raises:
        ValueError: it does not divide.
    """
    checking.at_least(1, heads=heads)
    if width % heads:
        raise ValueError(
            f"a width of {width} does not divide over {heads} heads; use another number of heads, or give "
            "head_width"
        )
    return width // heads


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
    qk_norm: bool
    layer_scale: float | None
    attention: Implementation
    train: bool
    dtype: str

    @nn.compact
    def __call__(self, x_BSD, segments_BS, lengths_B, angles_BSP, drop_path):
        x_BSD = constrain(x_BSD, "batch", None, None)
        attend = Attention(
            heads=self.heads,
            head_width=self.head_width,
            causal=self.causal,
            qk_norm=self.qk_norm,
            implementation=self.attention,
            dtype=self.dtype,
            name="attention",
        )
        seen = dict(segments_BS=segments_BS, lengths_B=lengths_B)
        y_BSD = attend(self._norm("attention", x_BSD), angles_BSP=angles_BSP, **seen)
        x_BSD = x_BSD + self._branch("attention", y_BSD, drop_path)
        mlp = Mlp(mlp=self.mlp, activation=self.activation, dtype=self.dtype, name="mlp")
        x_BSD = x_BSD + self._branch("mlp", mlp(self._norm("mlp", x_BSD)), drop_path)
        return x_BSD, None

    def _norm(self, name, x_BSD):
        return nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name=f"norm_{name}")(x_BSD)

    def _branch(self, name, y_BSD, drop_path):
        """What a residual branch adds: its output scaled, and in training now and then nothing."""
        if self.layer_scale is not None:
            start = nn.initializers.constant(self.layer_scale)
            y_BSD = y_BSD * self.param(f"gain_{name}", start, y_BSD.shape[-1:]).astype(y_BSD.dtype)
        y_BSD = nn.Dropout(self.dropout, deterministic=not self.train)(y_BSD)
        if drop_path is None:
            return y_BSD
        keep_B11 = jax.random.bernoulli(self.make_rng("dropout"), 1 - drop_path, (len(y_BSD), 1, 1))
        return jnp.where(keep_B11, y_BSD / (1 - drop_path).astype(y_BSD.dtype), 0)


class Encoder(nn.Module):
    """`depth` blocks, scanned over a leading layer axis of their parameters, or unrolled.

    Scanned, XLA compiles one block however deep the tower. `remat` recomputes a block's activations in the
    backward pass: all of them (`full`), or all but the matrix products with weights and what attention gives
    (`dots`).
    """

    depth: int
    heads: int
    head_width: int | None = None  # None: width / heads
    mlp: int | None = None  # None: 4 x width
    causal: bool = False
    activation: Activation = "gelu_tanh"
    norm_eps: float = 1e-6
    dropout: float = 0.0
    # Chance that training skips a branch of the last block for an example; it grows linearly from 0 at the
    # first (stochastic depth, Huang et al. 2016, arXiv:1603.09382).
    drop_path: float = 0.0
    qk_norm: bool = False  # normalises queries and keys
    # Where a learned factor of each branch starts (LayerScale, Touvron et al. 2021, arXiv:2103.17239).
    layer_scale: float | None = None
    # Which kernel the layers have; "auto" takes the best for the device. Pools of one query choose for
    # themselves: XLA's, which alone serves them.
    attention: Implementation = "auto"
    remat: Remat = "none"
    scan: bool = True
    dtype: Dtype = "float32"

    @nn.compact
    def __call__(self, x_BSD, segments_BS=None, *, lengths_B=None, angles_BSP=None, train: bool = False):
        """
        Args:
            segments_BS: ids; a position sees those of its own segment only. None: all are of one.
            lengths_B: positions of an example from here on are padding; None for none.
            angles_BSP: rotary angles of the positions; B may be 1.
        """
        block = self._block()
        fields = self._fields(x_BSD.shape[-1], train)
        x_BSD = x_BSD.astype(self.dtype)
        seen = segments_BS, lengths_B
        drop_L = jnp.linspace(0, self.drop_path, self.depth) if train and self.drop_path else None
        if not self.scan:
            for i in range(self.depth):
                drop = None if drop_L is None else drop_L[i]
                x_BSD, _ = block(**fields, name=f"block_{i}")(x_BSD, *seen, angles_BSP, drop)
            return x_BSD
        layers = nn.scan(
            block,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast, nn.broadcast, 0),
            length=self.depth,
        )
        return layers(**fields, name="blocks")(x_BSD, *seen, angles_BSP, drop_L)[0]

    def _block(self):
        if self.remat == "none":
            return Block
        # Under scan the loop already keeps XLA from merging the recomputation away.
        return nn.remat(Block, policy=_POLICIES[self.remat], prevent_cse=not self.scan)

    def _fields(self, width, train):
        checking.at_least(1, depth=self.depth, heads=self.heads, head_width=self.head_width, mlp=self.mlp)
        checking.share(dropout=self.dropout, drop_path=self.drop_path)
        checking.positive(norm_eps=self.norm_eps)
        return dict(
            heads=self.heads,
            head_width=self.head_width or per_head(width, self.heads),
            mlp=4 * width if self.mlp is None else self.mlp,
            causal=self.causal,
            activation=self.activation,
            norm_eps=self.norm_eps,
            dropout=self.dropout,
            qk_norm=self.qk_norm,
            layer_scale=self.layer_scale,
            attention=self.attention,
            train=train,
            dtype=self.dtype,
        )
