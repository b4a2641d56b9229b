"""Corruptions: they do what they say, more of it at higher severity, and the same every time."""

import io

import numpy as np
import pytest
from PIL import Image

from mmjax.evals.corruptions import CORRUPTIONS, SEVERITIES, corrupted


@pytest.fixture(scope="module")
def picture():
    """Smooth colours with edges, 64 pixels high and 48 wide."""
    across, down = np.meshgrid(np.linspace(0, 1, 48), np.linspace(0, 1, 64))
    image = np.stack([across, down, (across + down) / 2], axis=2)
    image[16:40, 8:24] = 0.9
    return np.round(60 + 130 * image).astype(np.uint8)


def change(before, after):
    return np.mean((before.astype(float) - after) ** 2)


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_a_higher_severity_changes_more_and_equal_calls_agree(picture, name):
    before = picture.copy()
    worse = [corrupted(name, picture, severity=severity, seed=3) for severity in SEVERITIES]
    changes = [change(picture, each) for each in worse]
    assert changes == sorted(changes) and 0 < changes[0] < changes[-1]
    assert all(each.shape == picture.shape and each.dtype == np.uint8 for each in worse)
    np.testing.assert_array_equal(worse[2], corrupted(name, picture, severity=3, seed=3))
    np.testing.assert_array_equal(picture, before)


def test_noise_has_the_stated_deviation():
    gray = np.full((200, 200, 3), 128, np.uint8)
    one, other = (corrupted("noise", gray, severity=1, seed=seed).astype(float) for seed in (0, 1))
    np.testing.assert_allclose(one.std() / 255, 0.08, rtol=0.02)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


def test_contrast_leaves_the_mean_and_the_stated_share_of_the_deviation(picture):
    found = corrupted("contrast", picture, severity=2, seed=0)
    np.testing.assert_allclose(found.mean(axis=(0, 1)), picture.mean(axis=(0, 1)), atol=0.3)
    np.testing.assert_allclose(found.std(axis=(0, 1)), 0.3 * picture.std(axis=(0, 1)), rtol=0.03)


def test_blur_is_as_wide_for_the_side_of_the_picture_whatever_it_is():
    def width(side):
        """Deviation of a blurred line, as a share of the side."""
        line = np.zeros((side, side, 3), np.uint8)
        line[:, side // 2] = 255
        shown = corrupted("blur", line, severity=5, seed=0)[side // 2, :, 0].astype(float)
        return np.sqrt(np.sum(shown * (np.arange(side) - side // 2) ** 2) / shown.sum()) / side

    np.testing.assert_allclose([width(224), width(448)], 6 / 224, rtol=0.12)


def test_jpeg_is_what_a_file_of_that_quality_holds(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=7)
    np.testing.assert_array_equal(
        corrupted("jpeg", picture, severity=5, seed=0), np.asarray(Image.open(file))
    )


def test_occlusion_covers_a_square_and_nothing_else(picture):
    found = corrupted("occlusion", picture, severity=3, seed=5)
    rows, columns = np.nonzero((found != picture).any(axis=2))
    side = round(0.4 * 48)
    assert rows.max() - rows.min() == columns.max() - columns.min() == side - 1
    assert (found[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == 128).all()
    assert len({corrupted("occlusion", picture, severity=3, seed=s).tobytes() for s in range(6)}) > 3


def test_what_is_transparent_is_white_before_it_is_corrupted(picture):
    clear = np.dstack([picture, np.zeros(picture.shape[:2], np.uint8)])
    white = np.full_like(picture, 255)
    for name in CORRUPTIONS:
        np.testing.assert_array_equal(
            corrupted(name, clear, severity=2, seed=1), corrupted(name, white, severity=2, seed=1)
        )
