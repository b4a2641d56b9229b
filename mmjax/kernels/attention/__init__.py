"""Attention: one public function, several implementations, chosen by device and case (docs/attention.md).

An implementation is a file here with

- `refusal(case)`: why it cannot serve a `Case`, in one clause, or None;
- `forward(case, q_BSX, k_BSX, v_BSX, lengths_B, segments_BS, *, interpret)`: the output [B, S, X] and `kept`,
  a tree of whatever else `backward` needs, their first axes free;
- `backward(case, q_BSX, k_BSX, v_BSX, lengths_B, segments_BS, y_BSX, kept, gradient_BSX, *, interpret)`: the
  gradients by queries, keys and values;

a name in `choice.py`, and a line in `tests/kernels/attention/members.py`, by which it inherits all tests. It
sees one device's part. `lengths_B` and `segments_BS` are None where the case has none; `interpret` is True
where the kernel's device is not there. Scores and their softmax are float32.

Letters: B batch, S queries, T keys, N heads, X = N x head width.
"""

import math

import jax.numpy as jnp

from mmjax.kernels.attention import dispatch
from mmjax.kernels.attention.case import Case
from mmjax.kernels.attention.choice import Implementation
from mmjax.kernels.attention.dispatch import SAVED

__all__ = ["SAVED", "Case", "Implementation", "attention"]


def attention(
    q,
    k,
    v,
    *,
    num_heads: int,
    kv_len: int | None = None,
    lengths=None,
    segment_ids=None,
    causal: bool = False,
    scale: float | None = None,
    implementation: Implementation = "auto",
):
    """Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762, eq. 1) of heads side by side.

    As many queries as keys are the same positions, and masks are then of both. A query that is padding, or
    that sees no key, gives zeros and has no gradient; what padding holds, NaN included, changes nothing.

    Args:
        q: [B, S, X], as a projection emits it: the first head, then the second, and so on.
        k, v: [B, T, X].
        kv_len: positions from here on are padding; None for none.
        lengths: int [B]; positions of an example from here on are padding.
        segment_ids: int or bool [B, S]; a position sees its own segment only. Of as many queries as keys.
        causal: a position sees none after it. Of as many queries as keys.
        scale: of the scores; None: 1 / sqrt(head width).
        implementation: "auto" takes for the device that this is compiled for the one that serves best
            (`choice.py`), and logs it once for every case. A Pallas kernel that is asked for elsewhere than
            on its device is interpreted.

    Returns:
        [B, S, X] in the dtype of q; policies of `jax.checkpoint` know it by the name `SAVED`.

    Raises:
        ValueError: shapes or dtypes do not fit together.
        NotImplementedError: the implementation asked for cannot serve this; says which one can.
    """
    _check_arrays(q, k, v, num_heads)
    _check_masks(q, k, kv_len, lengths, segment_ids, causal)
    width = q.shape[2] // num_heads
    case = Case(
        batch=q.shape[0],
        queries=q.shape[1],
        keys=k.shape[1],
        heads=num_heads,
        width=width,
        dtype=jnp.dtype(q.dtype),
        kv_len=None if kv_len == k.shape[1] else kv_len,
        lengths=lengths is not None,
        segments=segment_ids is not None,
        causal=causal,
        scale=1 / math.sqrt(width) if scale is None else float(scale),
    )
    lengths, segment_ids = (None if x is None else x.astype(jnp.int32) for x in (lengths, segment_ids))
    return dispatch.attend(implementation, case, q, k, v, lengths, segment_ids)


def _check_arrays(q, k, v, num_heads):
    shapes = f"{q.shape}, {k.shape} and {v.shape}"
    if not q.ndim == k.ndim == 3 or k.shape != v.shape or q.shape[::2] != k.shape[::2]:
        raise ValueError(f"q, k and v are [B, S, X], [B, T, X] and [B, T, X], got {shapes}")
    if not 0 not in q.shape + k.shape:
        raise ValueError(f"attention of nothing: q, k and v are {shapes}; leave out what is empty")
    if not q.dtype == k.dtype == v.dtype or not jnp.issubdtype(q.dtype, jnp.floating):
        raise ValueError(f"q, k and v need one floating dtype, got {q.dtype}, {k.dtype} and {v.dtype}")
    if num_heads < 1 or q.shape[2] % num_heads:
        raise ValueError(f"{q.shape[2]} features do not divide over num_heads={num_heads}")


def _check_masks(q, k, kv_len, lengths, segment_ids, causal):
    (batch, queries, _), keys = q.shape, k.shape[1]
    if kv_len is not None and not 1 <= kv_len <= keys:
        raise ValueError(f"kv_len={kv_len} is not in 1 ... {keys}, the number of keys")
    for name, x, shape in (("lengths", lengths, (batch,)), ("segment_ids", segment_ids, (batch, queries))):
        if x is not None and (x.shape != shape or jnp.issubdtype(x.dtype, jnp.inexact)):
            raise ValueError(f"{name} are integers of shape {shape}, got {x.dtype} of shape {x.shape}")
    if queries != keys and (causal or segment_ids is not None):
        raise ValueError(
            f"causal and segment_ids need as many queries as keys, got {queries} and {keys}; mask by lengths"
        )
