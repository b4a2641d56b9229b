"""Evaluation preprocessing: sizes, filters against a second implementation, alpha, bad input."""

import re

import jax
import numpy as np
import pytest

from mmjax.data.geometry import Preprocess, apply


def noise(height, width, channels):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height, width, channels=3):
    y, x, c = np.mgrid[:height, :width, :channels]
    wave = np.sin(x * 7 / width + c) * np.cos(y * 5 / height - c)
    return np.uint8(np.round(127.5 + 110 * wave))


@pytest.mark.parametrize(
    "filter, method", [("bilinear", "linear"), ("bicubic", "cubic"), ("lanczos", "lanczos3")]
)
def test_squash_equals_the_antialiased_resize_of_jax(filter, method):
    image = smooth(90, 61)
    out = Preprocess(size=24, mode="squash", filter=filter).host(image)
    expected = jax.image.resize(image.astype(np.float32), (24, 24, 3), method, antialias=True)
    # Pillow rounds to 8 bits between its two passes; its cubic has a = -0.5 as here.
    np.testing.assert_allclose(out, np.clip(expected, 0, 255), atol=1.5)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_preprocess_makes_rgb_of_its_size_of_any_picture(mode, channels):
    for height, width in [(30, 70), (71, 30), (5, 5), (1, 400)]:
        out = Preprocess(size=24, mode=mode).host(noise(height, width, channels))
        assert out.shape == (24, 24, 3) and out.dtype == np.uint8


def test_preprocess_shortest_is_resize_then_crop_and_squash_sees_all():
    image = noise(48, 96, 3)
    image[:, :24] = image[:, 72:] = 0
    image[:, 24:72] = 200
    assert np.all(Preprocess(size=48, mode="shortest").host(image) == 200)
    assert np.all(Preprocess(size=48, mode="squash").host(image)[:, 0] == 0)


def test_preprocess_blends_alpha_with_the_background():
    image = noise(16, 16, 4)
    out = Preprocess(size=16, background=(10, 100, 200)).host(image)
    alpha = image[..., 3:] / 255
    np.testing.assert_allclose(
        out, image[..., :3] * alpha + np.array((10, 100, 200)) * (1 - alpha), atol=0.51
    )


def test_preprocess_repeats_a_gray_channel():
    image = noise(16, 16, 1)
    np.testing.assert_array_equal(Preprocess(size=16).host(image), np.repeat(image, 3, axis=2))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((8, 8, 3)),
        np.zeros((0, 8, 3), np.uint8),
    ],
    ids=lambda image: f"{image.dtype}{image.shape}",
)
def test_other_arrays_are_refused_with_what_they_are(image):
    for function in (
        lambda: Preprocess(size=4).host(image),
        lambda: apply((), image, np.random.default_rng(0)),
    ):
        with pytest.raises(ValueError, match=re.escape(f"got {image.dtype} {list(image.shape)}")):
            function()


@pytest.mark.parametrize(
    "fields",
    [{"mode": "crop"}, {"std": (0.5, 0.5, 0.0)}, {"background": (0, 0, 256)}],
)
def test_impossible_preprocessing_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Preprocess(**{"size": 8} | fields)
