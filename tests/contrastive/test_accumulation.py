"""A batch in micro-batches: the gradient of the whole one, in their memory, and no row leaves its device."""

import dataclasses
import re

import debugrun
import jax
import numpy as np
import pytest
import tinyclip
from tinyclip import Linear

from mmjax.contrastive import accumulation
from mmjax.contrastive.step import init_state, make_step
from mmjax.data.colour import Background, Invert, Jitter
from mmjax.optim import Optim
from mmjax.towers.layers import Encoder

NOISE = dict(
    encoder=tinyclip.ENCODER.clone(dropout=0.2, drop_path=0.3),
    patch_dropout=0.5,
    colour=(Jitter(prob=0.5), Invert(prob=0.5), Background(prob=0.5)),
)
# Micro-batches of 8 have 32 rows: below that XLA forms products in another order on a CPU.
ROWS = 256


@pytest.fixture(scope="module")
def whole():
    """A batch, parameters, and the gradient of the whole, under all that draws random numbers."""
    cfg = tinyclip.config(ROWS, **NOISE)
    params, batch = tinyclip.params(cfg), tinyclip.batch(ROWS)
    return cfg, params, batch, tinyclip.value_and_grad(cfg, params, batch, jax.random.key(5))


def check(whole, parts, sizes=None):
    cfg, params, batch, ((value, (metrics, z, *_)), gradient) = whole
    mesh = None if sizes is None else tinyclip.mesh_of(sizes)
    cfg = dataclasses.replace(cfg, accumulate=parts)
    found = tinyclip.value_and_grad(cfg, params, batch, jax.random.key(5), mesh)
    (found_value, (found_metrics, found_z, *_)), found_gradient = found
    np.testing.assert_allclose(found_value, value, rtol=1e-6)
    for name in gradient:
        assert tinyclip.distance(found_gradient[name], gradient[name]) < 1e-6, name
    # Row by row, so that pairs and what else a batch says of its rows stay together.
    for name in z:
        np.testing.assert_allclose(found_z[name], z[name], atol=1e-6)
    assert found_metrics.keys() == metrics.keys()
    for name in metrics:
        np.testing.assert_allclose(found_metrics[name], metrics[name], rtol=1e-6)


def test_micro_batches_give_the_gradient_of_the_batch_whatever_is_random(whole):
    check(whole, 4)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [None, (8, 1, 1), (2, 4, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_any_number_of_micro_batches_does_on_any_mesh(whole, parts, sizes):
    if (parts, sizes) != (4, None):
        check(whole, parts, sizes)


@pytest.mark.slow
def test_other_draws_give_another_gradient(whole):
    cfg, params, batch, (_, gradient) = whole
    _, other = tinyclip.value_and_grad(cfg, params, batch, jax.random.key(6))
    assert tinyclip.distance(other["image"], gradient["image"]) > 0.1


def test_a_step_by_parts_is_the_step_of_the_whole():
    """Weights, their average, moments and every metric; what is frozen stays."""
    cfg = tinyclip.linear(
        32, image=Linear(dropout=0.5), optim=Optim(lr=0.1, ema=0.5, frozen="^text/"), log_every=1
    )
    state, batch = jax.jit(lambda: init_state(cfg, 8))(), tinyclip.batch(32)
    steps = [jax.jit(make_step(dataclasses.replace(cfg, accumulate=parts))) for parts in (1, 4)]
    (new, metrics), (by_parts, metrics_by_parts) = (jax.device_get(step(state, batch)) for step in steps)
    # By norm. Adam turns rounding into full steps where a gradient is next to nothing, its moments do not.
    for part, most in (("opt_state", 1e-5), ("params", 1e-4), ("ema", 1e-4)):
        assert tinyclip.distance(by_parts[part], new[part]) < most, part
    assert {"loss", "margin", "rank_text", "grad_norm/image"} <= metrics.keys() == metrics_by_parts.keys()
    for name in metrics:
        np.testing.assert_allclose(metrics_by_parts[name], metrics[name], rtol=1e-4, atol=1e-6, err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, by_parts["params"]["text"], state["params"]["text"])
    assert metrics_by_parts["grad_norm/text"] == 0 < metrics_by_parts["grad_norm/image"]


def test_rows_stay_on_their_devices():
    """No collective of the compiled gradient moves inputs, and none moves more than weights have numbers."""
    cfg = tinyclip.linear(64, image=Linear(dropout=0.5), accumulate=4)
    params, batch = tinyclip.params(cfg), tinyclip.batch(64)
    program = tinyclip.compiled(cfg, params, batch, tinyclip.mesh_of((8, 1, 1))).as_text()
    names = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    moved = re.findall(rf"= (.+?) ({names})(?:-start)?\(", program)
    assert {kind for _, kind in moved} >= {"all-reduce"}
    assert not {kind for _, kind in moved} & {"all-to-all", "collective-permute"}, moved
    shapes = [shape for types, _ in moved for shape in re.findall(r"\w+\[[\d,]*\]", types)]
    assert not [shape for shape in shapes if shape.startswith(("u8", "s32"))], shapes
    largest = max(leaf.size for leaf in jax.tree.leaves(params))
    for shape in shapes:
        assert np.prod([int(n) for n in re.findall(r"\d+", shape.partition("[")[2])]) <= largest, shape


@pytest.mark.parametrize(
    "parts", [pytest.param(2, marks=pytest.mark.slow), 4, pytest.param(8, marks=pytest.mark.slow)]
)
def test_activations_take_the_memory_of_a_micro_batch(parts):
    """But for 15 % of the whole: the gradient that grows, the logits, and the uint8 pictures of one part."""
    cfg = tinyclip.config(512, encoder=Encoder(depth=6, heads=2))
    params, batch = tinyclip.params(cfg), tinyclip.batch(512)
    whole, by_parts = (
        tinyclip.compiled(dataclasses.replace(cfg, accumulate=k), params, batch).memory_analysis()
        for k in (1, parts)
    )
    assert by_parts.temp_size_in_bytes < (1 / parts + 0.15) * whole.temp_size_in_bytes


@pytest.mark.parametrize("parts", [0, 3, 32])
def test_micro_batches_that_do_not_divide_the_batch_are_refused(parts):
    with pytest.raises(
        ValueError, match=rf"accumulate={parts} does not divide data.batch_size=16; use one of"
    ):
        dataclasses.replace(debugrun.config(), accumulate=parts)


def test_micro_batches_that_do_not_divide_over_the_devices_are_refused():
    cfg = tinyclip.linear(32, accumulate=8)
    accumulation.check(cfg, tinyclip.mesh_of((1, 4, 2)), tinyclip.params(cfg))
    message = (
        "micro-batches of 4, which do not divide over 8 devices; use a data.batch_size .* multiple of 64"
    )
    with pytest.raises(ValueError, match=message):
        accumulation.check(cfg, tinyclip.mesh_of((8, 1, 1)), tinyclip.params(cfg))


def test_statistics_of_the_batch_are_refused():
    cfg = tinyclip.linear(32, image=Linear(is_normed=True), accumulate=2)
    with pytest.raises(ValueError, match="accumulate=2, but the image tower normalises by statistics of the"):
        accumulation.check(cfg, tinyclip.mesh_of((8, 1, 1)), tinyclip.params(cfg))
