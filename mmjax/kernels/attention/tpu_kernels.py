"""What one grid step of attention on a TPU computes: whole rows of scores of a few heads, in VMEM, of all
queries or, where these are many, of some.

Scores are transposed, keys by queries: the softmax then reduces over sublanes, by adding registers, not over
lanes, by shuffling them. All results come transposed too, head width by positions: as the left factor of a
product, what has the fewest rows is the cheapest. Transposed, heads lie below each other and are cut apart at
no cost, and all heads of a block are transposed at once.

A head's scores, its softmax and what follows wait for each other; those of different heads do not. The
compiler stays close to the order of the code, so stages of several heads, and of several parts of the
queries, are written in turns.

Letters: S positions, Q a part of them as queries, T all of them as keys, K head width, X heads x K.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl

from mmjax.kernels.attention.case import Case
from mmjax.kernels.attention.tpu_blocks import Blocks
from mmjax.kernels.attention.tpu_lone import Lone, LoneGradients
from mmjax.kernels.attention.tpu_masks import Masks, Side
from mmjax.kernels.attention.tpu_preparation import Preparation
from mmjax.kernels.attention.tpu_products import ROWS, product

_SUBLANES = 8  # rows of a register


class _Unit(NamedTuple):
    head: int
    part: slice  # of the queries
    hide: Callable  # masks the part's scores


def forward(*refs, case: Case, blocks: Blocks):
    """Refs: lengths, segments, gains and waves where the case has them, queries, keys, values, output."""
    masks, refs = Masks.of(case, blocks.step, refs)
    preparation, (q_ref, k_ref, v_ref, y_ref) = Preparation.of(case, refs, masks.keys.count)
    lone = Lone.of(case, blocks, masks)
    units = _units(masks, blocks, lone)
    q_KS = _columns(masks.queries, q_ref, case)
    if preparation:
        q_KS = [preparation.of_head(0, x_KS) for x_KS in q_KS]
        k_KT = [preparation.of_head(1, x_KT) for x_KT in _columns(masks.keys, k_ref, case)]
        k_TK = _upright(k_KT, k_ref, case)
    else:
        k_TK = _rows(masks.keys, k_ref, case)
    ones_T = jnp.ones((ROWS, masks.keys.count), case.dtype)
    # The softmax' sum is the last product's, too: a row of ones costs less than adding up the weights.
    v_KT = [jnp.concatenate([x_KT, ones_T]) for x_KT in _columns(masks.keys, v_ref, case, clear=True)]

    def scores(unit, _):
        head, part, hide = unit
        return hide(_scores(case, k_TK[head], q_KS[head][:, part]))

    def weights(unit, s_TQ):
        return jnp.exp2(s_TQ - s_TQ.max(0, keepdims=True)).astype(case.dtype)

    def output(unit, w_TQ):
        y_KQ = product(v_KT[unit.head], w_TQ)
        return y_KQ[: case.width] * (1 / y_KQ[case.width : case.width + 1])

    last_1X = None
    if lone:
        packs = (_packs(masks.keys, ref, clear=ref is v_ref) for ref in (q_ref, k_ref, v_ref))
        last_1X = lone.output(*packs)
    y_KQ = _in_turns(units, blocks.ahead, scores, weights, output)
    _put(masks.queries, y_ref, _joined(units, y_KQ), last_1X=last_1X)


def backward(*refs, case: Case, blocks: Blocks):
    """Refs: lengths, segments, gains and waves where the case has them, queries, keys, values, gradient of
    the output; gradients by queries, keys, values and, where the case has them, gains; where a step has not
    all queries, space for sums of gradients by keys and values.

    Recomputes the weights w; with the gradient g of the output, the slope of the scores is
    w (g v - sum of w g v over the keys) (Dao et al. 2022, arXiv:2205.14135, appendix B.2).
    """
    masks, refs = Masks.of(case, blocks.step, refs)
    preparation, refs = Preparation.of(case, refs, masks.keys.count)
    q_ref, k_ref, v_ref, g_ref, dq_ref, dk_ref, dv_ref, *others = refs
    lone = Lone.of(case, blocks, masks)
    units = _units(masks, blocks, lone)
    q_KS, g_KS = (_columns(masks.queries, ref, case, clear=True) for ref in (q_ref, g_ref))
    k_KT = _columns(masks.keys, k_ref, case, clear=True)
    given = q_KS, k_KT
    if preparation:
        q_KS, k_KT = ([preparation.of_head(i, x_KS) for x_KS in heads] for i, heads in enumerate(given))
        k_TK = _upright(k_KT, k_ref, case)
    else:
        k_TK = _rows(masks.keys, k_ref, case, clear=True)
    v_TK = _rows(masks.keys, v_ref, case, clear=True)
    dk_KT, dv_KT = ([[] for _ in range(blocks.heads)] for _ in range(2))  # of parts, to be added up

    def scores(unit, _):
        head, part, hide = unit
        return hide(_scores(case, k_TK[head], q_KS[head][:, part]))

    def products(unit, s_TQ):
        head, part, _ = unit
        return s_TQ, product(v_TK[head], g_KS[head][:, part])

    def slopes(unit, values):
        s_TQ, dw_TQ = values
        e_TQ = jnp.exp2(s_TQ - s_TQ.max(0, keepdims=True))
        w_TQ = e_TQ * (1 / e_TQ.sum(0, keepdims=True))
        ds_TQ = w_TQ * (dw_TQ - (w_TQ * dw_TQ).sum(0, keepdims=True))
        return w_TQ.astype(case.dtype), ds_TQ.astype(case.dtype)

    def gradients(unit, values):
        (head, part, _), (w_TQ, ds_TQ) = unit, values
        dv_KT[head].append(product(g_KS[head][:, part], w_TQ, 1))
        dk_KT[head].append(product(q_KS[head][:, part], ds_TQ, 1))
        return product(k_KT[head], ds_TQ) * case.scale

    last = LoneGradients()
    if lone:
        last = lone.gradients(*(_packs(masks.keys, x, clear=True) for x in (q_ref, k_ref, v_ref, g_ref)))
    dq_KQ = _in_turns(units, blocks.ahead, scores, products, slopes, gradients)
    by_queries = _joined(units, dq_KQ)
    by_keys, by_values = ([sum(parts[1:], parts[0]) for parts in heads] for heads in (dk_KT, dv_KT))
    by_keys = [x_KT * case.scale for x_KT in by_keys]
    if preparation:
        by_queries, by_keys = _pulled(preparation, given, (by_queries, by_keys), *others)
    _put(masks.queries, dq_ref, by_queries, last_1X=last.by_queries_1X)
    if blocks.step is None:
        _put(masks.keys, dk_ref, by_keys, more=last.by_keys)
        _put(masks.keys, dv_ref, by_values, more=last.by_values)
    else:
        _add_up(masks.keys, (dk_ref, dv_ref), (by_keys, by_values), *others)


def _add_up(keys, refs, values, sums_ref):
    """Adds a step's share of the gradients by keys and values to `sums_ref`; the last step writes them."""
    step, steps = pl.program_id(2), pl.num_programs(2)
    for i, heads in enumerate(values):
        for h, x_KT in enumerate(heads):

            @pl.when(step == 0)
            def _(i=i, h=h, x_KT=x_KT):
                sums_ref[i, h] = x_KT

            @pl.when(step > 0)
            def _(i=i, h=h, x_KT=x_KT):
                sums_ref[i, h] += x_KT

    @pl.when(step == steps - 1)
    def _():
        for i, ref in enumerate(refs):
            _put(keys, ref, [sums_ref[i, h] for h in range(sums_ref.shape[1])])


def _pulled(preparation, given, gradients, gains_ref=None):
    """Gradients by queries and keys as they were given, of those by what was made of them; writes the
    gains', summed over the heads of the step."""
    found, sums_K1 = [], []
    for i, heads in enumerate(zip(given, gradients, strict=True)):
        pulled = [preparation.pulled(i, x_KS, gradient_KS) for x_KS, gradient_KS in zip(*heads, strict=True)]
        by_input, by_gain = zip(*pulled, strict=True)
        found.append(list(by_input))
        sums_K1.append(by_gain)
    if gains_ref is not None:
        gains_ref[...] = jnp.concatenate([sum(parts[1:], parts[0]) for parts in sums_K1], axis=1)
    return found


def _units(masks: Masks, blocks: Blocks, lone: Lone | None):
    # A few queries that are left over make no part of their own; of a single one no matrix can be made.
    size = masks.queries.count - (lone is not None)
    starts = [i for i in range(0, size, blocks.queries) if i == 0 or size - i >= _SUBLANES]
    parts = [slice(i, j) for i, j in itertools.pairwise([*starts, size])]
    hides = masks.of_parts(parts)
    return [
        _Unit(head, part, hide)
        for head in range(blocks.heads)
        for part, hide in zip(parts, hides, strict=True)
    ]


def _in_turns(units, ahead: int, *stages):
    """What the last stage makes of each unit; a stage runs `ahead` units before the one after it."""
    values = [None] * len(units)
    for turn in range(len(units) + ahead * (len(stages) - 1)):
        for n, stage in enumerate(stages):
            i = turn - n * ahead
            if 0 <= i < len(units):
                values[i] = stage(units[i], values[i])
    return values


def _joined(units, values_KQ):
    """[K, S] of each head, of the values of its units."""
    heads = {}
    for (head, _, _), x_KQ in zip(units, values_KQ, strict=True):
        heads.setdefault(head, []).append(x_KQ)
    return [jnp.concatenate(parts, axis=1) for parts in heads.values()]


def _scores(case, k_TK, q_KQ):
    """Their exponents to base 2. Scaled here, in float32: queries would be rounded once more."""
    return product(k_TK, q_KQ) * (case.scale * math.log2(math.e))


def _packs(side: Side, ref, clear):
    """[S, X] of heads that lie side by side: one array, or one a head."""
    packs = [ref[: side.count]] if len(ref.shape) == 2 else [ref[h, : side.count] for h in range(len(ref))]
    return [side.cleared(x_SX) for x_SX in packs] if clear else packs


def _rows(side, ref, case, clear=False):
    """[S, K] of each head."""
    return _cut(_packs(side, ref, clear), case)


def _upright(heads_KS, ref, case):
    """[S, K] of each head, of what `_columns` made of a ref; heads side by side are turned at once."""
    packs = [jnp.concatenate(heads_KS)] if len(ref.shape) == 2 else heads_KS
    return _cut([x_XS.T for x_XS in packs], case)


def _cut(packs, case):
    return [x_SX[:, i : i + case.width] for x_SX in packs for i in range(0, x_SX.shape[1], case.width)]


def _columns(side, ref, case, clear=False):
    """[K, S] of each head."""
    return [
        x_XS[i : i + case.width]
        for x_XS in (x_SX.T for x_SX in _packs(side, ref, clear))
        for i in range(0, x_XS.shape[0], case.width)
    ]


def _put(side, ref, heads_KS, last_1X=None, more=None):
    """Writes [K, S] of each head; zeros where padding is. `last_1X`: the last position of each pack, where
    the heads have it not; `more`: makes [S, X] to be added to a pack, of its index.
    """
    side_by_side = len(ref.shape) == 2
    for i, x_XS in enumerate([jnp.concatenate(heads_KS)] if side_by_side else heads_KS):
        pack_ref, x_SX = ref if side_by_side else ref.at[i], x_XS.T
        if last_1X is not None:
            x_SX = jnp.concatenate([x_SX, last_1X[i]])
        if more is not None:
            x_SX += more(i)
        if side.count < pack_ref.shape[0]:
            pack_ref[...] = jnp.zeros(pack_ref.shape, pack_ref.dtype)
        pack_ref[: side.count] = side.cleared(x_SX).astype(pack_ref.dtype)
