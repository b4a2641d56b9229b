"""The TPU's kernels, interpreted: against float64 NumPy, in the losses, and where they do not serve."""

import functools
import itertools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contrasting import assert_close, on_eight_devices, unit_rows

from mmjax.kernels import contrastive
from mmjax.kernels.contrastive import pallas_tpu, tiles
from mmjax.kernels.contrastive.rules import Distilled, Side, Sigmoid, Softmax

WIDTH, CHIP = 128, "TPU v6 lite"


@pytest.fixture
def small_tiles(monkeypatch):
    """Of 256 x 256 logits, and 512 columns at a time: a few hundred rows and columns need several of both."""
    monkeypatch.setattr(pallas_tpu, "_HIGH", 256)
    monkeypatch.setattr(pallas_tpu, "_WIDE", 256)
    monkeypatch.setattr(pallas_tpu, "_HELD", 512 * WIDTH)


def sides(rows, columns, dtype=jnp.float32, most=100.0):
    """Rows with a scale up to `most` and a bias of their own; some of them are pairs of columns."""
    rng = np.random.default_rng(0)
    scale, bias = rng.uniform(most / 10, most, rows), rng.normal(size=rows)
    x, y = (jnp.asarray(unit_rows(seed, size, WIDTH), dtype) for seed, size in ((1, rows), (2, columns)))
    scale, bias = jnp.asarray(scale, jnp.float32), jnp.asarray(bias, jnp.float32)
    row = Side(x, scale, bias, index=jnp.arange(rows, dtype=jnp.int32) + 700)
    return row, Side(y, index=jnp.arange(columns, dtype=jnp.int32) + 600)


def logits_of(row, column):
    x, y, scale, bias = (np.float64(part) for part in (row.z, column.z, row.scale, row.bias))
    return scale[:, None] * (x @ y.T) + bias[:, None]


def log_sum_exp(logits, axis):
    peak = logits.max(axis, keepdims=True)
    return (peak + np.log(np.exp(logits - peak).sum(axis, keepdims=True))).squeeze(axis)


def statistics(rule, row, column, before=None):
    """As the ring has them after these columns; `before` are those after others."""
    if before is None:
        before = (
            rule.empty(jnp.zeros(len(row.z))),
            rule.empty(jnp.zeros(len(column.z))) if rule.columns else None,
        )
    [rows], [columns] = pallas_tpu.forward(rule, (), row, column, *([x] for x in before), interpret=True)
    return rows, columns


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("most", [100.0, 1e4])
def test_log_sum_exps_of_rows_and_columns_equal_those_in_float64_at_any_scale(small_tiles, dtype, most):
    row, column = sides(384, 640, dtype, most)
    rows, columns = statistics(Softmax(), row, column)
    logits = logits_of(row, column)
    for found, axis in ((rows, 1), (columns, 0)):
        finished = Softmax().finish(found)
        assert_close(finished.peak + finished.log_sum, log_sum_exp(logits, axis), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sums_of_sigmoid_losses_equal_those_in_float64(small_tiles, dtype):
    row, column = sides(384, 640, dtype)
    found, nothing = statistics(Sigmoid(), row, column)
    sign = np.where(np.equal.outer(np.asarray(row.index), np.asarray(column.index)), 1, -1)
    assert (sign > 0).sum() > 300 and nothing is None
    assert_close(found, np.logaddexp(0, -sign * logits_of(row, column)).sum(axis=1), rtol=1e-6)


@pytest.mark.parametrize("rule", [Softmax(), Sigmoid()], ids=["softmax", "sigmoid"])
def test_columns_that_come_in_two_parts_give_the_statistics_of_all(small_tiles, rule):
    row, column = sides(256, 512)
    whole = statistics(rule, row, column)
    first, second = (tiles.cut(column, start, 256) for start in (0, 256))
    rows, columns = statistics(rule, row, first)
    empty = rule.empty(jnp.zeros(256)) if rule.columns else None
    rows, others = statistics(rule, row, second, before=(rows, empty))
    assert_close(rule.finish(rows), rule.finish(whole[0]), rtol=1e-6)
    if rule.columns:
        assert_close(
            jax.tree.map(lambda *parts: jnp.concatenate(parts), columns, others), whole[1], rtol=1e-6
        )


@pytest.mark.parametrize("rule", [Softmax(), Sigmoid()], ids=["softmax", "sigmoid"])
def test_gradients_equal_products_with_the_slopes_in_float64_beside_what_was_there(small_tiles, rule):
    row, column = sides(384, 640)
    found = statistics(rule, row, column)
    finished = [None if part is None else rule.finish(part) for part in found]
    rng = np.random.default_rng(3)
    given = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), finished)
    before = [jax.tree.map(lambda x: x + 1, tiles.no_gradient(side)) for side in (row, column)]
    rows, columns = zip(([x] for x in finished), ([x] for x in given), strict=True)
    d_row, d_column = pallas_tpu.backward(rule, (), row, column, rows, columns, *before, interpret=True)

    logits = logits_of(row, column)
    if rule == Softmax():
        slopes = np.float64(given[0].log_sum)[:, None] * np.exp(logits - log_sum_exp(logits, 1)[:, None])
        slopes += np.float64(given[1].log_sum) * np.exp(logits - log_sum_exp(logits, 0))
    else:
        sign = np.where(np.equal.outer(np.asarray(row.index), np.asarray(column.index)), 1, -1)
        slopes = -sign / (1 + np.exp(sign * logits)) * np.float64(given[0])[:, None]
    x, y = np.float64(row.z), np.float64(column.z)
    assert_close(d_row.z, 1 + slopes @ y, rtol=5e-6)
    assert_close(d_row.bias, 1 + slopes.sum(axis=1), rtol=5e-6)
    assert_close(d_column.z, 1 + (slopes * np.float64(row.scale)[:, None]).T @ x, rtol=5e-6)


LOSSES = {
    "infonce": (contrastive.infonce, {"log_scale": np.log(14.0)}),
    "sigmoid": (contrastive.sigmoid, {"log_scale": np.log(10.0), "bias": -3.0}),
}


CONTRACTS = list(itertools.product(LOSSES, ("ring", "gather"), ("float32", "bfloat16")))
# Any two values of different choices meet.
QUICK = [
    ("infonce", "ring", "float32"),
    ("infonce", "gather", "bfloat16"),
    ("sigmoid", "ring", "bfloat16"),
    ("sigmoid", "gather", "float32"),
]


@pytest.mark.parametrize(
    ("name", "implementation", "dtype"),
    [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in CONTRACTS],
)
def test_losses_of_kernels_hold_the_contract(monkeypatch, name, implementation, dtype):
    served = []

    def kernel(name, *args):
        served.append(name)
        return getattr(pallas_tpu, name)(*args, interpret=True)

    for part in ("forward", "backward"):
        monkeypatch.setattr(tiles, part, functools.partial(kernel, part))
    loss, params = LOSSES[name]
    x, y = (jnp.asarray(unit_rows(seed, 2048, WIDTH), dtype) for seed in (0, 1))
    scalars = [np.exp(params["log_scale"]), *([params["bias"]] if "bias" in params else [])]
    loss = functools.partial(loss, implementation=implementation)
    value, (d_x, d_y, *d_scalars) = on_eight_devices(loss, x, y, *scalars, shape=(2, 4, 1))
    assert set(served) == {"forward", "backward"}

    right, (right_x, right_y), by_params = contract.LOSSES[name](np.float64(x), np.float64(y), params)
    by_params["log_scale"] /= scalars[0]
    rtol = contract.TOLERANCE[dtype]
    assert_close((value, d_x, d_y, d_scalars), (right, right_x, right_y, [*by_params.values()]), rtol)


def test_kernels_serve_plain_losses_of_whole_vectors_on_the_chips_that_they_are_for():
    row, column = sides(256, 384)
    assert pallas_tpu.serves(CHIP, Softmax(), row, column) and pallas_tpu.serves(CHIP, Sigmoid(), row, column)


@pytest.mark.parametrize("chip", [None, "cpu", "TPU v4", "TPU v5", "NVIDIA H100 80GB HBM3"])
def test_other_devices_are_left_to_xla(chip):
    assert not pallas_tpu.serves(chip, Softmax(), *sides(256, 384))


@pytest.mark.parametrize(
    "rule",
    [
        Softmax(columns=False),
        Softmax(excluded="others"),
        Softmax(alike=True),
        Sigmoid(duplicates="masked"),
        Sigmoid(smoothing=0.1),
        Distilled(),
    ],
)
def test_options_are_left_to_xla(rule):
    assert not pallas_tpu.serves(CHIP, rule, *sides(256, 384))


def test_missing_pairs_prefixes_mixed_dtypes_odd_sizes_and_very_wide_embeddings_are_left_to_xla():
    row, column = sides(256, 384)
    absent = row._replace(present=jnp.ones(256, bool))
    nested = row._replace(norms=jnp.ones((256, 1)))
    narrow = column._replace(z=column.z.astype(jnp.bfloat16))
    half = [side._replace(z=side.z.astype(jnp.float16)) for side in (row, column)]
    wide = [side._replace(z=jnp.zeros((256, 4096))) for side in (row, column)]
    cases = [(absent, column), (nested, column), (row, narrow), half, wide, sides(257, 384), sides(256, 200)]
    assert not any(pallas_tpu.serves(CHIP, Softmax(), *case) for case in cases)
