"""Clip art as squares of pixels, and the marks by which copies are known."""

import numpy as np
import pytest
from cliparts import svg
from PIL import Image

from mmjax.data.sources.openclipart_render import MARGIN, VISIBLE, dhash, render


def rendered(tmp_path, px, **parts):
    path = tmp_path / "one.svg"
    path.write_bytes(svg(**parts))
    return render(str(path), px)


def extent(image_HWC):
    rows, columns = np.nonzero(image_HWC[..., 3] >= VISIBLE)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


@pytest.mark.parametrize(
    "size", ['width="400" height="100"', 'width="21cm" height="29.7cm" viewBox="0 0 210 297"', ""]
)
def test_what_is_visible_fills_the_square_but_for_a_margin(tmp_path, size):
    image_HWC = rendered(
        tmp_path, 64, size=size, body='<rect x="20" y="9" width="30" height="15"/>'
    ).image_HWC
    assert image_HWC.shape == (64, 64, 4) and image_HWC.dtype == np.uint8
    top, bottom, left, right = extent(image_HWC)
    assert (left, right) == (MARGIN, 64 - MARGIN)
    assert (top, bottom) == (17, 47)  # half as high, in the middle


def test_colours_and_transparency_stay_what_they_are(tmp_path):
    body = '<rect width="20" height="20" fill="#204060" fill-opacity="0.5"/>'
    image_HWC = rendered(tmp_path, 32, body=body).image_HWC
    np.testing.assert_allclose(image_HWC[16, 16], (0x20, 0x40, 0x60, 127.5), atol=1)
    assert not image_HWC[0].any()


@pytest.mark.parametrize("body", ["", "<rect", '<rect width="9" height="9" fill="none"/>'])
def test_nothing_visible_is_none(tmp_path, body):
    assert rendered(tmp_path, 32, body=body) is None


def test_marks_are_the_same_at_all_sizes_and_tell_drawings_apart(tmp_path):
    circle, square = '<circle cx="20" cy="20" r="15"/>', '<rect width="30" height="30" fill="red"/>'
    small, large = (rendered(tmp_path, px, body=circle) for px in (16, 160))
    other = rendered(tmp_path, 16, body=square)
    assert small[1:] == large[1:]
    assert small.digest != other.digest and small.dhash != other.dhash


def test_each_bit_says_which_of_two_neighbours_is_brighter():
    falling_HW = np.tile(np.arange(9)[::-1] * 20, (8, 1)).astype(np.uint8)
    falling_HW[3, 4:6] = 10, 200  # the first and second of two bits of row 3
    rgba_HWC = np.dstack([falling_HW] * 3 + [np.full((8, 9), 255, np.uint8)])
    assert dhash(Image.fromarray(rgba_HWC)) == 1 << (63 - (3 * 8 + 4))


def test_what_is_transparent_counts_as_white():
    nothing = Image.new("RGBA", (9, 8), (0, 0, 0, 0))
    assert dhash(nothing) == dhash(Image.new("RGBA", (9, 8), "white")) == 0
