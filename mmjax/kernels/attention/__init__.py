"""Attention: one public function, several implementations, chosen by device and case (docs/attention.md).

An implementation is a file here with

- `refusal(case)`: why it cannot serve a `Case`, in one clause, or None;
- `forward(case, arrays, *, interpret)`: the output [B, S, X] and `kept`, a tree of whatever else `backward`
  needs, their first axes free;
- `backward(case, arrays, y_BSX, kept, gradient_BSX, *, interpret)`: `Arrays` of the gradients by queries,
  keys and values;
- where it normalises and turns queries and keys itself, `prepares(case)`, which says for which cases; it then
  gives the gradient by gains, too. For others `preparation.py` does so before;

a line in each table of `choice.py` that it belongs to, and a name in `tests/kernels/attention/attending.py`,
by which it inherits all tests. It sees one device's part; `interpret` is True where the kernel's device is
not there. Scores and their softmax are float32.

Letters: B batch, S queries, T keys, K head width, P pairs of K, X = heads x K.
"""

import math

import jax.numpy as jnp

from mmjax.kernels.attention import dispatch
from mmjax.kernels.attention.case import Arrays, Case
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
    qk_norm=None,
    angles=None,
    cross: bool = False,
    scale: float | None = None,
    implementation: Implementation = "auto",
):
    """Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762, eq. 1) of heads side by side.

    As many queries as keys are the same positions unless `cross`, and masks are then of both. A query that is
    padding, or that sees no key, gives zeros and has no gradient; what padding holds, NaN included, changes
    nothing. On a mesh of several devices it wants `jax.set_mesh` around it.

    Args:
        q: [B, S, X], as a projection emits it: the first head, then the second, and so on.
        k, v: [B, T, X].
        kv_len: positions from here on are padding; None for none.
        lengths: int [B]; positions of an example from here on are padding.
        segment_ids: int or bool [B, S]; a position sees its own segment only. Of as many queries as keys.
        causal: a position sees none after it. Of as many queries as keys.
        qk_norm: gains of queries and of keys, two of [K]. Both are normalised in every head, to mean 0 and
            variance 1, and multiplied by their gains (Dehghani et al. 2023, arXiv:2302.05442, section 2.2).
        angles: [B or 1, S, P]. Neighbours in a head's queries and keys, normalised before, are turned as
            points of the plane (Su et al. 2021, arXiv:2104.09864). Constants: they get no gradient. Of as
            many queries as keys.
        cross: keys are of another sequence than queries, even where they are as many: masks are of keys
            alone.
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
    _check_masks(q, k, kv_len, lengths, segment_ids)
    width = q.shape[2] // num_heads
    _check_options(q, width, qk_norm, angles)
    _check_order(q, k, cross, causal=causal, segment_ids=segment_ids is not None, angles=angles is not None)
    kv_len = None if kv_len == k.shape[1] else kv_len
    case = Case(
        batch=q.shape[0],
        queries=q.shape[1],
        keys=k.shape[1],
        heads=num_heads,
        width=width,
        dtype=jnp.dtype(q.dtype),
        # Without a mask it is all the same, and kernels serve it.
        cross=cross and q.shape[1] == k.shape[1] and (kv_len is not None or lengths is not None),
        kv_len=kv_len,
        lengths=lengths is not None,
        segments=segment_ids is not None,
        causal=causal,
        norm=qk_norm is not None,
        rope=angles is not None,
        scale=1 / math.sqrt(width) if scale is None else float(scale),
    )
    arrays = Arrays(
        q,
        k,
        v,
        lengths_B=None if lengths is None else lengths.astype(jnp.int32),
        segments_BS=None if segment_ids is None else segment_ids.astype(jnp.int32),
        gains_2K=None if qk_norm is None else jnp.stack(qk_norm).astype(jnp.float32),
        angles_BSP=None if angles is None else angles.astype(jnp.float32),
    )
    return dispatch.attend(implementation, case, arrays)


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


def _check_masks(q, k, kv_len, lengths, segment_ids):
    (batch, queries, _), keys = q.shape, k.shape[1]
    if kv_len is not None and not 1 <= kv_len <= keys:
        raise ValueError(f"kv_len={kv_len} is not in 1 ... {keys}, the number of keys")
    for name, x, shape in (("lengths", lengths, (batch,)), ("segment_ids", segment_ids, (batch, queries))):
        if x is not None and (x.shape != shape or jnp.issubdtype(x.dtype, jnp.inexact)):
            raise ValueError(f"{name} are integers of shape {shape}, got {x.dtype} of shape {x.shape}")


def _check_options(q, width, qk_norm, angles):
    if qk_norm is not None and [gain.shape for gain in qk_norm] != [(width,)] * 2:
        raise ValueError(f"qk_norm has two gains of shape ({width},), got {[x.shape for x in qk_norm]}")
    if angles is None:
        return
    batch, queries, _ = q.shape
    if width % 2 or angles.shape not in [(1, queries, width // 2), (batch, queries, width // 2)]:
        raise ValueError(
            f"angles are one for every two of {width} features, [{batch} or 1, {queries}, {width // 2}], got "
            f"{angles.shape}"
        )


def _check_order(q, k, cross, **options):
    """Options that compare places of queries with those of keys."""
    given = [name for name, on in options.items() if on]
    if given and (cross or q.shape[1] != k.shape[1]):
        raise ValueError(
            f"{' and '.join(given)} need queries and keys of one sequence, got {q.shape[1]} and {k.shape[1]}"
            f"{' with cross=True' if cross else ''}; mask by lengths, and turn by angles before"
        )
