"""The Hopper kernels: what they refuse, how a case is split, and what they compute, interpreted on a CPU.

That they compile for a GPU is for test_gpu_aot.py. The interpreter has a thread for every warpgroup and takes
seconds for a head, so here are few examples; `-m slow` has more. It has effects, which JAX does not
rematerialise, and runs on one device alone: rematerialised and on a mesh the kernels are compiled, in
test_gpu_aot.py.
"""

import dataclasses
import functools
import itertools

import attending
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tinyclip
from attending import RESULTS, Example
from jax.experimental.pallas import mosaic_gpu as plgpu

from mmjax.kernels.attention import (
    attention,
    devices,
    pallas_gpu,
    pallas_gpu_backward,
    pallas_gpu_splits,
)
from mmjax.kernels.attention.case import Arrays, Case
from mmjax.kernels.attention.pallas_gpu_tiles import Block, T
from mmjax.towers.vit import ViT

needs_interpreter = pytest.mark.skipif(
    jax.__version_info__ < pallas_gpu.SINCE, reason="JAX from 0.11.2 on interprets kernels of Mosaic GPU"
)
# Scores of keys that are padding are made and thrown away; NumPy, which makes them here, warns of NaN.
quiet = pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")

EXAMPLES = [
    Example(dtype="bfloat16", heads=1, length=77, lengths=True, segments=True),
    Example(dtype="bfloat16", heads=2, length=13, width=104, kv_len=True, causal=True),
    Example(dtype="bfloat16", heads=1, length=129, width=72, lengths=True),  # in two sweeps
]


def every_case():
    """Of the published lengths and widths that the kernels serve: with no mask, with each, and with all."""
    masks = [{}, *({mask: True} for mask in attending.MASKS), dict.fromkeys(attending.MASKS, True)]
    for length, width, on in itertools.product((50, 64, 77, 196, 197, 256), attending.WIDTHS, masks):
        if length <= 192 or width <= 96:
            # Five keys of 77: of one head's, errors would be those of a few roundings.
            heads = 8 if on.get("lengths") and length == 77 else 1
            yield Example(dtype="bfloat16", heads=heads, batch=2, length=length, width=width, **on)


MORE = [
    *every_case(),
    Example(dtype="bfloat16", heads=1, length=131, width=72, lengths=True, causal=True),
    Example(dtype="bfloat16", heads=1, length=196, width=88, segments=True, kv_len=True),
    Example(dtype="bfloat16", heads=2, length=13, lengths=True, norm=True, rope=True),
    *(Example(dtype="bfloat16", heads=2, length=1, **masks) for masks in attending.EVERY_MASK),
]
TINY = Example(dtype="bfloat16", heads=2, length=13, lengths=True)


def case(**fields):
    sizes = dict(batch=2, queries=77, keys=77, heads=2, width=64, dtype=jnp.dtype("bfloat16"), scale=0.125)
    return Case(**sizes | fields)


@pytest.mark.parametrize(
    "fields, reason",
    [
        (dict(), None),
        (dict(dtype=jnp.dtype("float16"), width=128, queries=128, keys=128), None),
        (dict(dtype=jnp.dtype("float32")), "bfloat16 or float16, not in float32"),
        (dict(queries=1), "as many queries as keys, of one sequence, not 1 and 77"),
        (dict(queries=257, keys=257), "at most 256 of them, not 257"),
        (dict(width=68), "multiples of 8 from 16 to 128, not 68"),
        (dict(width=136), "multiples of 8 from 16 to 128, not 136"),
        (dict(width=8), "multiples of 8 from 16 to 128, not 8"),
        (dict(width=112, queries=192, keys=192), None),
        (dict(width=120, queries=192, keys=192), "gradients of heads up to 112 wide of 192 keys"),
        (dict(width=104, queries=196, keys=196), "gradients of heads up to 96 wide of 196 keys"),
        (dict(batch=65_536), "room for 65535 examples, not for 65536"),
        (dict(scale=0.0), "has to be positive, not 0.0"),
    ],
)
def test_what_the_registers_or_the_copies_do_not_allow_is_refused(monkeypatch, fields, reason):
    monkeypatch.setattr(pallas_gpu, "SINCE", (0,))
    found = pallas_gpu.refusal(case(**fields))
    assert (found is None) == (reason is None)
    if reason is not None:
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(found)


def test_an_older_jax_is_refused(monkeypatch):
    monkeypatch.setattr(pallas_gpu, "SINCE", (1000, 1))
    assert pallas_gpu.refusal(case()).startswith("it is written for JAX from 1000.1 on, and this is ")


def test_a_gpu_without_hoppers_instructions_is_refused(monkeypatch):
    monkeypatch.setattr(pallas_gpu, "SINCE", (0,))
    found = {}
    for capability in (None, 8.0, 9.0, 10.0):
        monkeypatch.setattr(devices, "cuda_capability", lambda capability=capability: capability)
        found[capability] = pallas_gpu.refusal(case())
    assert {capability for capability, reason in found.items() if reason is None} == {None, 9.0}
    assert found[10.0].endswith("made for GPUs of compute capability 9.0, and here is one of 10.0")


@pytest.mark.parametrize("width", range(16, 129, 8))
@pytest.mark.parametrize("sizes", [(64, 32, 16), (64,)], ids=str)
def test_panels_cover_a_head_and_none_lies_beyond_it(width, sizes):
    panels = Block(case(width=width), 1, sizes=sizes).panels
    starts, columns = zip(*panels, strict=True)
    assert set(columns) <= set(sizes)
    assert starts == tuple(np.cumsum((0, *columns))[:-1])
    assert starts[-1] < width <= sum(columns)


@pytest.mark.parametrize("width", (16, 64, 72, 128))
@pytest.mark.parametrize("length", (1, 64, 65, 128, 129, 192, 193, 256))
def test_a_split_gives_every_warpgroup_as_many_tiles_of_keys_as_its_registers_hold(length, width):
    sizes = case(queries=length, keys=length, width=width)
    forwards, backwards = pallas_gpu_splits.splits(sizes)
    assert forwards and backwards
    assert pallas_gpu_splits.rule(sizes) in [(x, y) for x in forwards for y in backwards]
    if width <= 64 or length <= 128:  # else dK and dV have a sweep of their own, a tile at a time
        tiles, columns = -(-length // T), 64 if width <= 64 else 128
        assert all(tiles % count == 0 and tiles // count * columns <= 128 for count in backwards)


def test_a_measured_split_is_taken_where_the_table_has_the_case(monkeypatch, tmp_path):
    monkeypatch.setattr(pallas_gpu_splits, "TABLE", tmp_path / "table.json")
    pallas_gpu_splits.TABLE.write_text('{"rows": []}')
    sizes = case(queries=197, keys=197)
    key = dict(device="H", dtype="bfloat16", positions=197, width=64)
    rows = [key | dict(masks="", forward=2, backward=1), key | dict(masks="causal", forward=1, backward=1)]
    try:
        pallas_gpu_splits.store(rows)
        pallas_gpu_splits.store([rows[0] | dict(backward=4)])  # measured again
        # Of masks that were not measured that of none.
        for fields, split in ((dict(), (2, 4)), (dict(causal=True), (1, 1)), (dict(lengths=True), (2, 4))):
            assert pallas_gpu_splits.choose(dataclasses.replace(sizes, **fields), "H") == split
        for other, device in ((sizes, "another"), (dataclasses.replace(sizes, width=72), "H")):
            assert pallas_gpu_splits.choose(other, device) == pallas_gpu_splits.rule(other)
        assert len(pallas_gpu_splits.rows()) == 2
    finally:
        pallas_gpu_splits._table.cache_clear()


def test_every_row_of_the_table_is_a_split_that_there_is():
    for row in pallas_gpu_splits.rows():
        sizes = case(queries=row["positions"], keys=row["positions"], width=row["width"])
        forwards, backwards = pallas_gpu_splits.splits(sizes)
        assert row["forward"] in forwards and row["backward"] in backwards and row["made"]


@needs_interpreter
@quiet
@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_errors_are_at_most_one_and_a_half_times_those_of_xla(example):
    check(example)


@pytest.mark.slow
@needs_interpreter
@quiet
@pytest.mark.parametrize("example", MORE, ids=str)
def test_so_they_are_for_more_shapes_and_masks(example):
    check(example)


class Pairs(Example):
    """Every query sees itself and one more key."""

    @property
    def options(self):
        ids_S = np.arange(self.length, dtype=np.int32) // 2
        return super().options | dict(segment_ids=np.tile(ids_S, (self.batch, 1)))


SEE_TWO = [
    *(Pairs(dtype="bfloat16", heads=1, length=n, width=k, segments=True) for n, k in ((70, 64), (131, 72))),
    Example(dtype="bfloat16", heads=24, length=2),
]


@needs_interpreter
@quiet
@pytest.mark.parametrize("example", SEE_TWO, ids=str)
def test_of_two_keys_gradients_are_as_near_as_those_of_xla(example):
    """With the rounded output in them, as flash attention has it, they would be 1.5 times as far off."""
    found, expected = (attending.errors(name, example) for name in ("pallas_gpu", "xla"))
    for name in RESULTS:
        assert found[name][0] <= 1.2 * expected[name][0], name


def check(example):
    assert attending.beyond("pallas_gpu", example, standard="xla") == {}
    for name in RESULTS:
        assert not attending.found("pallas_gpu", example)[name][~example.real].any(), name


@pytest.mark.slow
@needs_interpreter
@quiet
def test_two_runs_and_what_padding_holds_change_not_a_bit():
    first = attending.found("pallas_gpu", TINY)
    for arrays in (TINY.poisoned, TINY.arrays):
        again = attending.compiled("pallas_gpu", TINY)(*arrays)
        for name in RESULTS:
            np.testing.assert_array_equal(first[name], again[name], name)


@needs_interpreter
@quiet
def test_mapped_and_scanned_they_compute_the_same(monkeypatch):
    monkeypatch.setattr(devices, "compilable", frozenset)  # beside a branch for CUDA it cannot be mapped
    width = 16
    x_VBSX, gradient_VBSX = (attending.random((3, 2, 13, width), seed, jnp.bfloat16) for seed in range(2))
    lengths_VB = jnp.array([[13, 0], [5, 9], [1, 13]], jnp.int32)

    def run(x_BSX, lengths_B, gradient_BSX):
        attend = functools.partial(attention, num_heads=1, causal=True, lengths=lengths_B)
        output, pull = jax.vjp(lambda x: attend(x, x, x, implementation="pallas_gpu"), x_BSX)
        return output, *pull(gradient_BSX)

    given = x_VBSX, lengths_VB, gradient_VBSX
    mapped = jax.jit(jax.vmap(run))(*given)
    scanned = jax.jit(lambda *given: jax.lax.map(lambda one: run(*one), given))(*given)
    for i, one in enumerate(zip(*given, strict=True)):
        for found in (mapped, scanned):
            for x_VBSX, expected in zip(found, run(*one), strict=True):
                np.testing.assert_array_equal(x_VBSX[i], expected)


@needs_interpreter
@quiet
def test_a_tower_trains_with_them_in_micro_batches(monkeypatch):
    """In bfloat16, as near to float32 as with XLA's attention. (Flax scans no layers that have effects.)"""
    monkeypatch.setattr(devices, "compilable", frozenset)
    batch, key = tinyclip.batch(4), jax.random.key(0)

    def gradient_of(**fields):
        encoder = tinyclip.ENCODER.clone(heads=2, scan=False, **fields)
        towers = {"image": ViT(width=32, patch=8, embed=8, encoder=encoder), "text": tinyclip.Linear()}
        cfg = tinyclip.config(4, towers=towers, accumulate=2)
        return tinyclip.value_and_grad(cfg, tinyclip.params(cfg), batch, key)[1]

    expected = gradient_of(attention="xla")
    errors = [
        tinyclip.distance(gradient_of(attention=name, dtype="bfloat16"), expected)
        for name in ("pallas_gpu", "xla")
    ]
    assert errors[0] < 1.1 * errors[1]


def race(monkeypatch, capfd, length, width, **masks):
    """Whether two warpgroups touch the same memory at the same time; else the results are right."""
    monkeypatch.setattr(pallas_gpu, "_interpreter", lambda _: plgpu.InterpretGPUParams(detect_races=True))
    example = Example(dtype="bfloat16", heads=1, length=length, width=width, **masks)
    q, k, v, gradient = (jnp.asarray(x) for x in example.poisoned)
    arrays = Arrays(q, k, v, lengths_B=example.options.get("lengths"))
    split = pallas_gpu_splits.Warpgroups(forward=2, backward=2)
    sizes = case(queries=length, keys=length, heads=1, width=width, scale=width**-0.5, **masks)
    how = dict(interpret=True, split=split)
    try:
        output, kept = pallas_gpu.forward(sizes, arrays, **how)
        found = output, *pallas_gpu.backward(sizes, arrays, output, kept, gradient, **how)[:3]
        jax.block_until_ready(found)
    except Exception as error:
        if "RACE" not in str(error).upper():
            raise
        return True
    if "RACE" in "".join(capfd.readouterr()).upper():
        return True
    for name, expected in attending.reference(example).items():
        one = np.float64(found[RESULTS.index(name)])
        assert np.linalg.norm(one - expected) < 0.01 * np.linalg.norm(expected), name
    return False


@needs_interpreter
@quiet
@pytest.mark.parametrize("length, width", [(70, 64), (129, 72)])  # five products, and in two sweeps
# With padding to clear and sums of rows made of weights; of the output, with positions that are compared.
@pytest.mark.parametrize("mask", ("lengths", "causal"))
def test_warpgroups_do_not_race(monkeypatch, capfd, length, width, mask):
    assert not race(monkeypatch, capfd, length, width, **{mask: True})


@needs_interpreter
@quiet
def test_a_race_would_be_seen(monkeypatch, capfd):
    """Of warpgroups that do not wait for each other."""
    monkeypatch.setattr(pallas_gpu_backward, "meet", lambda _: None)
    assert race(monkeypatch, capfd, 70, 64, lengths=True)
