"""Device colour: formulas of every op, their probabilities, strict dtypes, and the mesh."""

import colorsys
import functools
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmjax.data.colour import Background, ColourDrop, Edges, Invert, Jitter, Outline, augment, normalise

NO_JITTER = dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
OPS = (ColourDrop, Invert, Jitter, Edges, Outline)
CHAIN = tuple(op(prob=0.5) for op in (*OPS, Background))
KEY = jax.random.key(7)


def pictures(batch=4, size=12, channels=4, seed=0):
    return np.random.default_rng(seed).uniform(size=(batch, size, size, channels)).astype(np.float32)


def as_uint8(image_BHWC):
    return np.round(image_BHWC * 255).astype(np.uint8)


def one_colour(*colour, batch=4, size=8):
    return np.tile(np.array(colour, np.float32), (batch, size, size, 1))


def disc(size=24):
    """One red disc of radius size / 4 with hard edges on a transparent ground that hides green."""
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    inside = np.hypot(x, y)[None, ..., None] < size / 4
    return np.where(inside, (1, 0, 0, 1), (0, 1, 0, 0)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def compiled(function, image_BHWC, key):
    with jax.numpy_dtype_promotion("strict"):
        return function(image_BHWC, key)


def run(op, image_BHWC):
    return compiled(op, image_BHWC, KEY)


def run_chain(ops, image_BHWC):
    return compiled(functools.partial(augment, ops), image_BHWC, KEY)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.__name__)
def test_probability_zero_changes_nothing(op):
    image = pictures()
    np.testing.assert_array_equal(run(op(prob=0.0), image), image)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.__name__)
def test_probability_one_changes_every_example_within_range(op):
    image = np.concatenate([pictures(size=24), disc()])
    out = run(op(prob=1.0), image)
    assert out.shape == image.shape and out.dtype == jnp.float32
    assert np.all(np.any(out != image, axis=(1, 2, 3)))
    assert out.min() >= 0 and out.max() <= 1 + 1e-6


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.__name__)
def test_an_op_happens_to_its_share_of_the_examples(op):
    draws, prob = 10_000, 0.2
    image = np.tile(disc(8), (draws, 1, 1, 1))
    image[:, 3, 3] = (0.2, 0.4, 0.6, 1)
    changed = np.any(run(op(prob=prob), image) != image, axis=(1, 2, 3))
    assert abs(changed.mean() - prob) <= 4 * math.sqrt(prob * (1 - prob) / draws)


def test_examples_are_chosen_independently_of_their_neighbours():
    image = one_colour(0.2, 0.4, 0.6, batch=10_000, size=1)
    hit = np.any(run(Invert(prob=0.3), image) != image, axis=(1, 2, 3))
    assert abs(np.mean(hit[1:] & hit[:-1]) - 0.09) <= 4 * math.sqrt(0.09 * 0.91 / 9_999)


def test_dropped_colours_are_the_luma_in_all_channels():
    image = pictures()
    out = np.asarray(run(ColourDrop(prob=1.0), image))
    luma = image[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose(out[..., :3], np.repeat(luma[..., None], 3, axis=-1), atol=2e-4)  # 0.2989
    np.testing.assert_array_equal(out[..., 3], image[..., 3])


def test_the_inverse_of_white_is_black_and_of_itself_nothing():
    invert = Invert(prob=1)  # a whole number will do
    np.testing.assert_array_equal(run(invert, one_colour(1, 1, 1, 0.5)), one_colour(0, 0, 0, 0.5))
    np.testing.assert_allclose(run(invert, run(invert, pictures())), pictures(), atol=1e-6)


def test_jitter_of_no_width_changes_nothing():
    image = pictures()
    np.testing.assert_allclose(run(Jitter(prob=1.0, **NO_JITTER), image), image, atol=1e-6)


def test_brightness_adds_one_number_to_an_example():
    image = 0.3 + 0.4 * pictures(batch=500, size=3)
    out = run(Jitter(prob=1.0, **NO_JITTER | {"brightness": 0.2}), image)
    added = np.asarray(out - image)[..., :3]
    assert np.ptp(added, axis=(1, 2, 3)).max() < 1e-5
    assert added.min() > -0.2 and added.max() < 0.2 and np.std(added[:, 0, 0, 0]) > 0.1


def test_contrast_scales_about_the_mean_of_what_is_visible():
    image = 0.4 + 0.2 * pictures(batch=50)
    weight = image[..., 3:] / image[..., 3:].sum(axis=(1, 2), keepdims=True)
    centred = image[..., :3] - (image[..., :3] * weight).sum(axis=(1, 2), keepdims=True)
    out = np.asarray(run(Jitter(prob=1.0, **NO_JITTER | {"contrast": 0.5}), image))
    after = out[..., :3] - (out[..., :3] * weight).sum(axis=(1, 2), keepdims=True)
    factor = (after * centred).sum(axis=(1, 2, 3)) / (centred**2).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(after, factor[:, None, None, None] * centred, atol=1e-5)
    assert factor.min() > 0.5 and factor.max() < 1.5 and np.ptp(factor) > 0.7
    plain = np.asarray(run(Jitter(prob=1.0, **NO_JITTER | {"contrast": 0.5}), image[..., :3]))
    means = [pixels.mean(axis=(1, 2)) for pixels in (plain, image[..., :3])]
    np.testing.assert_allclose(*means, atol=1e-5)


@pytest.mark.parametrize("channel, field", [(0, "hue"), (1, "saturation")])
def test_hue_and_saturation_move_that_coordinate_alone(channel, field):
    image = 0.3 + 0.4 * pictures(batch=200, size=2, channels=3)
    out = np.asarray(run(Jitter(prob=1.0, **NO_JITTER | {field: 0.1}), image))
    before = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3).tolist()])
    after = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in out.reshape(-1, 3).tolist()])
    others = [index for index in range(3) if index != channel]
    np.testing.assert_allclose(after[:, others], before[:, others], atol=1e-4)
    if field == "hue":
        moved = (after[:, 0] - before[:, 0] + 0.5) % 1 - 0.5
    else:
        moved = after[:, 1] / before[:, 1] - 1
    moved = moved.reshape(200, 4)
    assert np.ptp(moved, axis=1).max() < 1e-3
    assert np.abs(moved).max() < 0.1 + 1e-4 and np.ptp(moved) > 0.15


def test_hidden_colours_do_not_change_what_jitter_shows():
    hidden, other = disc(), disc()
    other[other[..., 3] == 0, :3] = 0.5
    jitter = Jitter(prob=1.0)
    shown = [np.asarray(run(jitter, image)) * image[..., 3:] for image in (hidden, other)]
    np.testing.assert_allclose(*shown, atol=1e-6)


def test_edges_of_a_flat_picture_are_a_white_sheet():
    out = run(Edges(prob=1.0), one_colour(0.3, 0.6, 0.1))
    np.testing.assert_allclose(out, 1, atol=1e-5)


@pytest.mark.parametrize("axis", [1, 2])
def test_edges_are_dark_on_both_sides_of_a_step_and_white_elsewhere(axis):
    image = one_colour(1, 1, 1)
    image[(slice(None),) * axis + (slice(4),)] = 0.75
    out = np.moveaxis(np.asarray(run(Edges(prob=1.0, gain=2.0), image)), axis, 1)
    for place in range(8):
        np.testing.assert_allclose(out[:, place], 0.5 if place in (3, 4) else 1.0, atol=1e-3)


def test_edges_see_the_silhouette_and_not_the_hidden_colour():
    image = disc()
    out = np.asarray(run(Edges(prob=1.0), image))
    assert np.all(out[..., 3] == 1)
    np.testing.assert_array_equal(out[..., 0], out[..., 2])
    assert out[0, 12, 12, 0] == out[0, 0, 0, 0] == 1 and out[..., 0].min() < 0.1


def test_an_outline_is_black_around_the_drawing_and_leaves_it_alone():
    image = disc()
    for width in (1, 2):
        out = np.asarray(run(Outline(prob=1.0, width=width), image))[0]
        inside = image[0, ..., 3] == 1
        grown = np.zeros_like(inside)
        for row, column in np.argwhere(inside):
            grown[row - width : row + width + 1, column - width : column + width + 1] = True
        np.testing.assert_array_equal(out[inside], image[0][inside])
        np.testing.assert_array_equal(
            out[grown & ~inside], np.tile([0, 0, 0, 1], ((grown & ~inside).sum(), 1))
        )
        assert np.all(out[~grown, 3] == 0)


def test_a_soft_edge_over_its_outline_is_the_blend_with_black():
    image = one_colour(1, 0.5, 0, 1)
    image[:, :, 4:, 3] = 0
    image[:, :, 4, 3] = 0.25
    out = np.asarray(run(Outline(prob=1.0), image))
    np.testing.assert_allclose(out[:, :, 4], np.tile([0.25, 0.125, 0, 1], (4, 8, 1)), atol=1e-6)


def test_an_outline_does_not_darken_what_is_half_transparent():
    image = one_colour(1, 0.5, 0, 0.5)
    np.testing.assert_allclose(run(Outline(prob=1.0), image), image, atol=1e-6)


def test_an_outline_needs_alpha():
    with pytest.raises(ValueError, match=r"C = 3; take it out"):
        Outline()(pictures(channels=3), KEY)


def test_background_is_white_or_one_random_colour():
    image = one_colour(0.2, 0.2, 0.2, 0.5, batch=10_000, size=2)
    np.testing.assert_allclose(run(Background(prob=0.0), image), 0.6, atol=1e-6)
    out = np.asarray(run(Background(prob=0.3), image))
    assert out.shape == (10_000, 2, 2, 3)
    assert np.all(out == out[:, :1, :1])
    filled = out[np.any(np.abs(out - 0.6) > 1e-6, axis=(1, 2, 3)), 0, 0]
    assert abs(len(filled) / 10_000 - 0.3) <= 4 * math.sqrt(0.3 * 0.7 / 10_000)
    colours = 2 * (filled - 0.1)
    assert np.abs(colours.mean(axis=0) - 0.5).max() <= 4 / math.sqrt(12 * len(colours))
    assert np.abs(np.corrcoef(colours.T) - np.eye(3)).max() <= 4 / math.sqrt(len(colours))


def test_background_leaves_rgb_alone():
    image = pictures(channels=3)
    np.testing.assert_array_equal(run(Background(prob=1), image), image)


def test_no_ops_put_the_picture_on_white():
    image = as_uint8(pictures())
    out = run_chain((), image)
    rgb, alpha = image[..., :3] / 255, image[..., 3:] / 255
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, rgb * alpha + 1 - alpha, atol=1e-6)


def test_ops_run_in_order():
    image = as_uint8(one_colour(1, 1, 1, 0))
    np.testing.assert_array_equal(run_chain((Background(prob=0.0), Invert(prob=1.0)), image), 0)
    np.testing.assert_array_equal(run_chain((Invert(prob=1.0), Background(prob=0.0)), image), 1)


def test_an_op_added_at_the_end_does_not_change_the_draws_before_it():
    image = as_uint8(pictures(batch=64))
    short = run_chain((Invert(prob=0.5),), image)
    np.testing.assert_array_equal(run_chain((Invert(prob=0.5), Jitter(prob=0.0)), image), short)


def test_two_ops_of_one_kind_draw_apart():
    image = as_uint8(one_colour(1, 1, 1, batch=1_000, size=1))
    out = np.asarray(run_chain((Invert(prob=0.5), Invert(prob=0.5)), image))
    assert abs(out[:, 0, 0, 0].mean() - 0.5) < 4 * math.sqrt(0.25 / 1_000)


def test_the_chain_does_not_depend_on_the_mesh():
    image = as_uint8(pictures(batch=64, size=16))
    alone = run_chain(CHAIN, image)
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))
    spread = run_chain(CHAIN, jax.device_put(image, NamedSharding(mesh, PartitionSpec("devices"))))
    assert len(spread.sharding.device_set) == 8 and not spread.is_fully_replicated
    np.testing.assert_allclose(spread, alone, atol=1e-6)
    assert np.asarray(alone).std(axis=0).min() > 0.1  # examples differ: each drew for itself


@pytest.mark.parametrize(
    "image",
    [np.zeros((2, 4, 4, 4), np.float32), np.zeros((2, 4, 4, 2), np.uint8), np.zeros((4, 4, 3), np.uint8)],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ValueError, match="augment wants uint8"):
        augment((), image, KEY)


def test_normalise_is_the_formula_for_bytes_and_for_floats():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    image = as_uint8(pictures(channels=3))
    expected = (image / 255 - np.array(mean)) / np.array(std)
    for given in (image, (image / 255).astype(np.float32)):
        out = normalise(jnp.asarray(given), mean, std)
        assert out.dtype == jnp.float32
        np.testing.assert_allclose(out, expected, atol=1e-6)


def test_normalise_refuses_alpha():
    with pytest.raises(ValueError, match="three channels"):
        normalise(jnp.zeros((2, 4, 4, 4)), (0.5,) * 3, (0.5,) * 3)


def test_a_missing_dm_pix_is_one_line_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "dm_pix", None)
    with pytest.raises(ValueError, match="pip install dm-pix") as error:
        ColourDrop()(pictures(), KEY)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "op, fields",
    [(op, {"prob": prob}) for op in (*OPS, Background) for prob in (-0.1, 1.1)]
    + [(Jitter, {"hue": -0.1}), (Jitter, {"contrast": 2.0}), (Edges, {"gain": 0.0}), (Outline, {"width": 0})],
)
def test_impossible_ops_are_refused(op, fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        op(**fields)
