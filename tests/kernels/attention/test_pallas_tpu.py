"""What is particular to attention on a TPU: layouts, blocks, and grid steps that may run at the same time."""

import dataclasses
import functools
import itertools

import attending
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attending import MASKS, Example
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mmjax.kernels.attention import pallas_tpu, tpu_blocks, tune_tpu
from mmjax.kernels.attention.case import Arrays, Case
from mmjax.kernels.attention.tpu_blocks import Blocks, Plan
from mmjax.kernels.attention.tpu_lone import Lone

ALL_MASKS = dict.fromkeys(MASKS, True)
TWO_CORES = pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2)


def case_of(example: Example) -> Case:
    fields = {name: getattr(example, name) for name in ("lengths", "segments", "causal")}
    return Case(
        batch=example.batch,
        queries=example.length,
        keys=example.length,
        heads=example.heads,
        width=example.width,
        dtype=jnp.dtype(example.dtype),
        kv_len=example.kept if example.kv_len else None,
        scale=example.width**-0.5,
        **fields,
    )


def run(example: Example, blocks: Blocks, interpret=True):
    """Output and gradients, by `RESULTS`, of the kernels with given blocks."""
    case, options = case_of(example), example.options

    @jax.jit
    def both(arrays, gradient):
        (output,) = pallas_tpu.call("forward", case, blocks, arrays, interpret=interpret)
        found = pallas_tpu.call("backward", case, blocks, arrays, gradient, interpret=interpret)
        return output, *found[:3]

    *qkv, gradient = example.poisoned
    found = both(Arrays(*qkv, options.get("lengths"), options.get("segment_ids")), gradient)
    return dict(zip(attending.RESULTS, found, strict=True))


@pytest.mark.parametrize(
    "change", [dict(apart=True, heads=1), dict(apart=True), dict(queries=64), dict(ahead=1)], ids=str
)
def test_blocks_change_nothing_but_the_order_of_work(change):
    example = Example(length=134, **ALL_MASKS | dict(kv_len=False))
    blocks = Blocks(heads=2, apart=False, queries=134, ahead=2)
    expected, found = run(example, blocks), run(example, dataclasses.replace(blocks, **change))
    for name in attending.RESULTS:
        # Parts of the queries add up to gradients of keys and values in another order.
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("heads, apart", [(3, False), (3, True), (17, False)])
def test_a_query_beyond_whole_tiles_is_as_in_a_tile_of_its_own(monkeypatch, heads, apart):
    example = Example(length=129, heads=heads, segments=True, causal=True)
    blocks = Blocks(heads=heads, apart=apart, queries=128, ahead=1)
    found = run(example, blocks)
    monkeypatch.setattr(Lone, "of", lambda *_: None)
    jax.clear_caches()  # of the kernels as they were traced
    for name, expected in run(example, blocks).items():
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=2e-6, err_msg=name)
        assert (found[name] != expected).any(), name  # in another order


@pytest.mark.parametrize(
    "example, change",
    [
        (Example(length=300), {}),
        (Example(length=261, **ALL_MASKS), {}),
        (Example(length=257, width=72, lengths=True, causal=True), dict(apart=True, heads=1)),
        (Example(length=256, segments=True, kv_len=True), dict(heads=2, apart=True)),
    ],
    ids=str,
)
def test_queries_that_stream_past_keys_give_the_reference(example, change):
    blocks = Blocks(heads=2, apart=False, queries=128, ahead=1, step=128)
    found, expected = run(example, dataclasses.replace(blocks, **change)), attending.reference(example)
    size = max(np.abs(x).max() for x in expected.values())
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-6 * size, err_msg=name)


@pytest.mark.parametrize("width", (72, 88))
def test_heads_that_lie_apart_are_prepared_like_others(monkeypatch, width):
    """As of rows so long that few heads are of a grid step."""
    monkeypatch.setattr(tpu_blocks, "_HEADS", 1)
    example = Example(length=33, heads=3, width=width, lengths=True, norm=True, rope=True)
    assert tpu_blocks.blocks(case_of(example), "forward").apart
    assert attending.beyond("pallas_tpu", example) == {}


def races(capfd, function) -> bool:
    """Whether steps that run at the same time touch the same memory; JAX 0.10 prints it, 0.12 raises."""
    try:
        jax.block_until_ready(function())
    except Exception as error:
        if "RACE DETECTED" not in str(error):
            raise
        return True
    finally:
        pltpu.reset_tpu_interpret_mode_state()
    return "RACE DETECTED" in capfd.readouterr().out


@pytest.mark.parametrize("length, step", [(24, None), (130, 128)])
def test_grid_steps_on_two_cores_do_not_race(capfd, length, step):
    example = Example(length=length, heads=4, batch=2, **ALL_MASKS)
    blocks = Blocks(heads=2, apart=False, queries=step or length, ahead=1, step=step)
    assert not races(capfd, lambda: run(example, blocks, TWO_CORES))


def test_a_race_would_be_seen(capfd):
    def same_place(x_ref, y_ref):
        y_ref[...] = x_ref[...] + pl.program_id(0)

    one_block = pl.BlockSpec((8, 128), lambda i: (0, 0))
    function = pl.pallas_call(
        same_place,
        grid=(4,),
        in_specs=[one_block],
        out_specs=one_block,
        out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=TWO_CORES,
    )
    assert races(capfd, functools.partial(function, jnp.ones((8, 128))))


@pytest.mark.parametrize("length", attending.LENGTHS)
@pytest.mark.parametrize("device", ("TPU v5 lite", "TPU v6 lite", "cpu"))
def test_blocks_are_legal_and_bounded_for_every_number_of_heads(device, length):
    for heads, width in itertools.product((1, 2, 3, 6, 8, 12, 16), attending.WIDTHS):
        case = case_of(Example(length=length, heads=heads, width=width, dtype="bfloat16"))
        for kernel in ("forward", "backward"):
            blocks = tpu_blocks.blocks(case, kernel, device)
            assert heads % blocks.heads == 0
            # A block's lanes fill registers, or are all that the array has.
            assert blocks.apart or blocks.heads == heads or blocks.heads * width % 128 == 0
            assert blocks.queries == length or blocks.queries % 128 == 0
            # Of float32: scores and their gradient of all heads of a step, in 100 MiB.
            assert 2 * 4 * blocks.heads * length * (length + 127) <= 100 * 2**20


@pytest.mark.parametrize(
    "heads, width, most, expected",
    [
        (12, 64, 4, (4, False)),
        (12, 64, 1, (2, False)),  # a few more than planned, rather than moving every array
        (3, 64, 2, (3, False)),  # all there are
        (16, 80, 8, (8, False)),
        (16, 96, 6, (4, False)),
        (16, 104, 8, (16, False)),
        (16, 72, 2, (2, True)),
        (12, 88, 5, (4, True)),
        (1, 72, 8, (1, False)),
    ],
)
def test_heads_lie_side_by_side_where_they_fill_lanes(heads, width, most, expected):
    case = case_of(Example(length=50, heads=heads, width=width))
    blocks = tpu_blocks.fit(case, Plan(most=most, queries=128, ahead=1))
    assert (blocks.heads, blocks.apart) == expected


@pytest.mark.parametrize("length", (1025, 2048, 4097, 8192))
def test_long_rows_have_all_keys_of_some_queries(length):
    for heads, width, dtype in itertools.product((1, 3, 12, 16), attending.WIDTHS, attending.DTYPES):
        case = case_of(Example(length=length, heads=heads, width=width, dtype=dtype))
        assert pallas_tpu.refusal(case) is None
        for kernel in ("forward", "backward"):
            blocks = tpu_blocks.blocks(case, kernel, "TPU v5 lite")
            assert blocks.step == blocks.queries and blocks.step % 128 == 0
            assert blocks.apart or blocks.heads == heads or blocks.heads * width % 128 == 0
            # Of float32: five arrays of scores' size, in 100 MiB.
            assert 5 * 4 * blocks.heads * length * blocks.step <= 100 * 2**20
    too_long = case_of(Example(length=pallas_tpu.LONGEST + 1))
    assert pallas_tpu.refusal(too_long) == "rows of scores are of up to 8192 keys, not 8193"


@pytest.fixture
def table(monkeypatch, tmp_path):
    """One of our own, without rows; nothing is compiled for it: a plan's cycles are what a test says."""
    monkeypatch.setattr(tpu_blocks, "TABLE", tmp_path / "blocks.json")
    tune_tpu.write([])

    def fill(cycles, shapes, **options):
        monkeypatch.setattr(tune_tpu, "cycles", lambda folder, device, case, kernel, blocks: cycles(blocks))
        monkeypatch.setattr(tune_tpu, "made", lambda: "today")
        tune_tpu.fill(tmp_path, shapes, ["TPU v5 lite"], **options)
        return tpu_blocks.rows()

    return fill


def test_a_row_of_the_table_has_the_plan_of_fewest_cycles(table):
    def cycles(blocks):
        return abs(blocks.queries - 128) + blocks.heads + blocks.ahead

    forward, backward = table(cycles, ["577x16x64:causal"])
    assert forward["plan"] == dict(most=4, queries=577, ahead=2) and forward["cycles_per_head"] == 455
    assert backward["plan"] == dict(most=4, queries=128, ahead=1) and backward["cycles_per_head"] == 5
    case = tune_tpu.case_of("577x16x64:causal")
    for row in (forward, backward):
        key = tpu_blocks.key_of(case, row["kernel"], "TPU v5 lite")
        assert tuple(row[name] for name in tpu_blocks.KEY) == key and row["made"] == "today"


def test_rows_of_the_table_are_replaced_where_that_is_asked_for(table):
    first = table(lambda blocks: 7, ["50x12x64", "77x12x64:causal"])
    again = table(lambda blocks: 8, ["50x12x64", "64x12x64"])
    assert again[:4] == first and [row["cycles_per_head"] for row in again] == [7] * 4 + [8] * 2
    anew = table(lambda blocks: 9, ["50x12x64"], again=True)
    assert [row["cycles_per_head"] for row in anew] == [9, 9, 7, 7, 8, 8]
    assert [row["positions"] for row in anew] == [50, 50, 77, 77, 64, 64]


def test_shapes_of_the_table_have_a_row_each():
    keys = {tpu_blocks.key_of(tune_tpu.case_of(shape), "forward", "") for shape in tune_tpu.SHAPES}
    assert len(keys) == len(tune_tpu.SHAPES)


def test_the_table_is_taken_where_it_has_the_case_and_says_on_what_it_was_made():
    for row in tpu_blocks.rows():
        assert {"jax", "libtpu"} <= set(row["made"].replace(",", "").split())
        case = tune_tpu.case_of(f"{row['positions']}x16x{row['width']}:{row['masks']}")
        found = tpu_blocks.blocks(case, row["kernel"], row["device"])
        assert found == tpu_blocks.fit(case, Plan(**row["plan"]))
        # Padding that is cut off leaves the same work.
        padded = dataclasses.replace(case, queries=1024, keys=1024, kv_len=case.keys)
        assert tpu_blocks.blocks(padded, row["kernel"], row["device"]) == found
