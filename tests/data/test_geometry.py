"""Host geometry: known maps, alpha, antialiasing and the random draws."""

import math

import numpy as np
import pytest

from mmjax.data.geometry import Affine, CentreCrop, Flip, RandomResizedCrop, Resize, apply

STILL = dict(rotation=0.0, log_scale=(0.0, 0.0), log_aspect=0.0, shear=0.0, shift=0.0)
DRAWS = 10_000


class Highest:
    """A generator that always draws the upper end, which makes a random op a known one."""

    def uniform(self, low, high, size=None):
        return high if size is None else np.full(size, high)


def generator(seed=0):
    return np.random.default_rng(seed)


def noise(height, width, channels, seed=0):
    return generator(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height, width, channels=3):
    y, x, c = np.mgrid[:height, :width, :channels]
    wave = np.sin(x * 7 / width + c) * np.cos(y * 5 / height - c)
    return np.uint8(np.round(127.5 + 110 * wave))


def red_disc(size=64):
    """A red disc with a soft edge; transparent pixels hide green."""
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    alpha = np.clip(size / 3 - np.hypot(x, y) + 0.5, 0, 1)
    colour = np.where(alpha[..., None] > 0, (255, 0, 0), (0, 255, 0))
    return np.concatenate([colour, 255 * alpha[..., None]], axis=2).astype(np.uint8)


OPS = [
    Affine(size=48),
    Affine(size=48, filter="bilinear"),
    Affine(size=20),
    RandomResizedCrop(size=48),
    Resize(size=48),
    Resize(size=100, mode="shortest"),
    CentreCrop(size=48),
    Flip(prob=1.0),
]


@pytest.mark.parametrize("op", OPS, ids=repr)
@pytest.mark.parametrize("channels", [3, 4])
def test_every_op_makes_uint8_of_its_size_and_depends_on_the_generator_alone(op, channels):
    image = noise(64, 64, channels)
    kept = image.copy()
    out = apply((op,), image, generator(3))
    size = getattr(op, "size", 64)
    assert out.shape == (size, size, channels) and out.dtype == np.uint8 and out.flags.c_contiguous
    np.testing.assert_array_equal(out, apply((op,), image, generator(3)))
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize("op", OPS, ids=repr)
def test_hidden_colours_make_no_fringe(op):
    for seed in range(5):
        out = apply((op,), red_disc(), generator(seed)).astype(int)
        # Below an alpha of 16 a colour has only 4 bits left after Pillow's 8-bit premultiplication.
        visible = out[out[..., 3] >= 16]
        assert len(visible) > 100
        assert visible[:, 0].min() >= 238 and visible[:, 1:3].max() <= 8


@pytest.mark.parametrize("channels", [3, 4])
def test_ops_run_in_order(channels):
    image = noise(64, 64, channels)
    ops = (Resize(size=32), CentreCrop(size=16), Flip(prob=1.0))
    expected = Resize(size=32)(image)[8:24, 8:24][:, ::-1]
    np.testing.assert_array_equal(apply(ops, image, generator()), expected)


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("background", ["white", "edge"])
def test_an_affine_map_without_randomness_is_the_identity(filter, background):
    image = noise(48, 48, 3)
    op = Affine(size=48, filter=filter, background=background, **STILL)
    np.testing.assert_array_equal(op(image, generator()), image)


@pytest.mark.parametrize("shape", [(48, 80, 3), (80, 48, 3)])
def test_an_affine_map_without_randomness_crops_the_longer_side(shape):
    image = noise(*shape)
    np.testing.assert_array_equal(Affine(size=48, **STILL)(image, generator()), CentreCrop(size=48)(image))


def test_a_positive_quarter_turn_is_clockwise():
    image = noise(32, 32, 3)
    turned = Affine(size=32, **STILL | {"rotation": 90.0})(image, Highest())
    np.testing.assert_allclose(turned.astype(int), np.rot90(image, -1), atol=1)  # Pillow truncates


def test_a_shift_uncovers_the_background():
    image = np.full((32, 32, 3), 50, np.uint8)
    image[:, 0], image[0, :] = 10, 20
    still = STILL | {"shift": 0.25}
    white = Affine(size=32, **still)(image, Highest())
    np.testing.assert_array_equal(white[8:, 8:], image[:-8, :-8])
    assert np.all(white[:8] == 255) and np.all(white[:, :8] == 255)
    edge = Affine(size=32, background="edge", **still)(image, Highest())
    np.testing.assert_array_equal(edge, np.pad(image, ((8, 0), (8, 0), (0, 0)), mode="edge")[:32, :32])
    clear = Affine(size=32, **still)(noise(32, 32, 4), Highest())
    assert np.all(clear[:8] == 0) and np.all(clear[:, :8] == 0)


def bilinear_reference(image_HWC, turn, shift, size):
    """The affine map by its definition, and which pixels lie a pixel or more inside the source."""
    height, width = image_HWC.shape[:2]
    y, x = np.mgrid[:size, :size] + 0.5
    offset = np.stack([x - size / 2 - shift[0], y - size / 2 - shift[1]], axis=-1)
    source = offset @ np.linalg.inv(turn * size / min(height, width)).T + (width / 2, height / 2) - 0.5
    low = np.floor(source).astype(int)
    inside = np.all((source >= 1) & (source <= np.array([width, height]) - 3), axis=-1)
    low = np.clip(low, 0, np.array([width, height]) - 2)
    right, down = np.moveaxis(source - low, -1, 0)[..., None]
    column, row = low[..., 0], low[..., 1]
    top = image_HWC[row, column] * (1 - right) + image_HWC[row, column + 1] * right
    bottom = image_HWC[row + 1, column] * (1 - right) + image_HWC[row + 1, column + 1] * right
    return top * (1 - down) + bottom * down, inside


@pytest.mark.parametrize("seed", range(4))
def test_a_random_affine_map_equals_bilinear_sampling_of_its_own_draw(seed):
    image, op = noise(64, 90, 3), Affine(size=48, filter="bilinear")
    expected, inside = bilinear_reference(image, *op.draw(generator(seed)), 48)
    out = op(image, generator(seed))
    assert inside.mean() > 0.6
    np.testing.assert_allclose(out[inside], expected[inside], atol=1.01)  # Pillow truncates


def test_a_large_reduction_stays_in_place():
    image, op = smooth(403, 500), Affine(size=48, filter="bilinear")
    expected, inside = bilinear_reference(image, *op.draw(generator(1)), 48)
    # The curvature of the waves within one block of 8x8 pixels.
    np.testing.assert_allclose(op(image, generator(1))[inside], expected[inside], atol=2.0)


@pytest.mark.parametrize("shrink", [2, 2.5, 4, 4.9])
def test_a_large_reduction_does_not_alias(shrink):
    side = int(32 * shrink)
    stripes = np.zeros((side, side, 3), np.uint8)
    stripes[:, ::2] = 255
    out = Affine(size=32, **STILL)(stripes, generator())
    np.testing.assert_allclose(out, 127.5, atol=1)


def test_the_draws_stay_in_their_ranges_and_fill_them():
    op, rng = Affine(size=100), generator()
    draws = [op.draw(rng) for _ in range(DRAWS)]
    turns, shifts = np.stack([turn for turn, _ in draws]), np.stack([shift for _, shift in draws])
    log_scale = np.log(np.linalg.det(turns)) / 2
    angle = np.degrees(np.arctan2(turns[:, 1, 0], turns[:, 0, 0]))
    across = np.linalg.norm(turns[:, :, 0], axis=1) / np.exp(log_scale)
    for values, low, high in [
        (log_scale, -0.15, 0.25),
        (angle, -15, 15),
        (2 * np.log(across), -0.12, 0.12),
        (shifts, -7, 7),
    ]:
        width = high - low
        assert low <= values.min() < low + 0.01 * width and high - 0.01 * width < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 4 * width / math.sqrt(12 * DRAWS)


def test_shear_moves_rows_and_keeps_the_area():
    turn, _ = Affine(size=10, **STILL | {"shear": 0.3}).draw(Highest())
    np.testing.assert_allclose(turn, [[1, 0.3], [0, 1]], atol=1e-12)


def test_flipping_twice_is_nothing():
    image, flip = noise(9, 7, 4), Flip(prob=1.0)
    once = flip(image, generator())
    np.testing.assert_array_equal(once[:, 0], image[:, -1])
    np.testing.assert_array_equal(flip(once, generator()), image)


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_flips_happen_as_often_as_stated(prob):
    image, flip, rng = np.array([[[0, 0, 0], [9, 9, 9]]], np.uint8), Flip(prob=prob), generator()
    share = np.mean([flip(image, rng)[0, 0, 0] == 9 for _ in range(DRAWS)])
    assert abs(share - prob) <= 4 * math.sqrt(prob * (1 - prob) / DRAWS)


@pytest.mark.parametrize("height, width", [(64, 64), (100, 40), (20, 300)])
def test_crops_lie_inside_with_the_stated_aspect(height, width):
    op, rng = RandomResizedCrop(size=8, area=(0.3, 1.0)), generator()
    left, top, across, down = np.array([op.rectangle(height, width, rng) for _ in range(DRAWS)]).T
    rounding = 1e-9 * max(height, width)
    assert left.min() >= 0 and top.min() >= 0
    assert np.all(left + across <= width + rounding) and np.all(top + down <= height + rounding)
    assert np.all((across / down >= 3 / 4 - 1e-9) & (across / down <= 4 / 3 + 1e-9))


def test_the_area_of_crops_is_uniform():
    op, rng = RandomResizedCrop(size=8, area=(0.3, 1.0)), generator()
    area = np.array([np.prod(op.rectangle(64, 64, rng)[2:]) for _ in range(DRAWS)]) / 64**2
    assert abs(area.mean() - 0.65) < 4 * 0.7 / math.sqrt(12 * DRAWS)
    assert abs(np.mean(area < 0.475) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / DRAWS)


def test_a_crop_of_everything_is_the_picture():
    image = noise(48, 48, 4)
    image[..., 3] = 255
    op = RandomResizedCrop(size=48, area=(1.0, 1.0), aspect=(1.0, 1.0))
    np.testing.assert_array_equal(op(image, generator()), image)


def test_a_crop_shows_its_rectangle():
    ramp = np.broadcast_to((2 * np.arange(100))[None, :, None], (100, 100, 3)).astype(np.uint8)
    op = RandomResizedCrop(size=25, area=(0.3, 0.5))
    for seed in range(5):
        left, _, across, _ = op.rectangle(100, 100, generator(seed))
        centres = left + (np.arange(25) + 0.5) * across / 25
        row = op(ramp, generator(seed))[12, :, 0]
        # Rounding twice; the outermost pixels lack neighbours on one side.
        np.testing.assert_allclose(row[2:-2], 2 * (centres - 0.5)[2:-2], atol=1.1)


@pytest.mark.parametrize("height, width", [(50, 75), (75, 50), (31, 100)])
def test_shortest_keeps_the_aspect_and_squash_does_not(height, width):
    image = noise(height, width, 3)
    kept = Resize(size=20, mode="shortest")(image).shape
    assert min(kept[:2]) == 20 and max(kept[:2]) == 20 * max(height, width) // min(height, width)
    assert Resize(size=20, mode="squash")(image).shape == (20, 20, 3)


def test_the_centre_crop_is_the_middle():
    image = noise(10, 14, 3)
    np.testing.assert_array_equal(CentreCrop(size=6)(image), image[2:8, 4:10])


def test_a_picture_smaller_than_the_crop_is_refused():
    with pytest.raises(ValueError, match=r"CentreCrop\(size=48\) got a picture of 40x60"):
        CentreCrop(size=48)(noise(40, 60, 3))


@pytest.mark.parametrize(
    "op, fields",
    [
        (Resize, {"size": 0}),
        (Resize, {"filter": "cubic"}),
        (Resize, {"mode": "longest"}),
        (CentreCrop, {"size": -1}),
        (RandomResizedCrop, {"area": (0.5, 1.2)}),
        (RandomResizedCrop, {"aspect": (2.0, 1.0)}),
        (Affine, {"background": "black"}),
        (Affine, {"filter": "lanczos"}),
        (Affine, {"rotation": -1.0}),
        (Affine, {"log_scale": (0.2, 0.1)}),
    ],
)
def test_impossible_ops_are_refused(op, fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        op(**{"size": 8} | fields)


def test_an_impossible_flip_is_refused():
    with pytest.raises(ValueError, match="prob=1.5"):
        Flip(prob=1.5)
