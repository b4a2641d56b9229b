"""Positions of patches against loops of scalar arithmetic, and what makes rotary positions relative."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.kernels.attention.preparation import turned
from mmjax.towers import positions


def test_sines_and_cosines_follow_column_and_row():
    waves_SD = np.asarray(positions.sincos2d(2, 3, 16))
    for row in range(2):
        for column in range(3):
            frequencies = [10_000 ** (-i / 3) for i in range(4)]
            expected = [
                wave(place * f) for place in (column, row) for wave in (np.sin, np.cos) for f in frequencies
            ]
            np.testing.assert_allclose(waves_SD[3 * row + column], expected, atol=1e-6)


def test_rotary_angles_follow_column_and_row():
    angles_SP = np.asarray(positions.rope2d(2, 3, 8, first=1))
    for row in range(2):
        for column in range(3):
            expected = [place * f for place in (column + 1, row + 1) for f in (1, 10_000 ** (-1 / 2))]
            np.testing.assert_allclose(angles_SP[3 * row + column], expected, rtol=1e-6)


def test_rotation_is_a_product_of_complex_numbers():
    rng = np.random.default_rng(0)
    x_BSNK, angles_BSP = rng.normal(size=(2, 6, 3, 8)), rng.uniform(-4, 4, (1, 6, 4))
    points = x_BSNK.reshape(2, 6, 3, 4, 2) @ [1, 1j] * np.exp(1j * angles_BSP)[:, :, None, :]
    expected = np.stack([points.real, points.imag], axis=-1).reshape(x_BSNK.shape)
    np.testing.assert_allclose(turned(jnp.float32(x_BSNK), angles_BSP), expected, atol=1e-5)


def test_what_a_patch_sees_of_another_depends_on_the_way_between_them():
    rng = np.random.default_rng(1)
    query_K, key_K = rng.normal(size=(2, 8)).astype(np.float32)
    angles_BSP = positions.rope2d(4, 4, 8)[None]
    query_SK, key_SK = (turned(jnp.tile(x, (1, 16, 1, 1)), angles_BSP)[0, :, 0] for x in (query_K, key_K))
    scores_SS = np.asarray(query_SK @ key_SK.T).reshape(4, 4, 4, 4)  # row, column, row, column
    np.testing.assert_allclose(scores_SS[0, 0, 1, 2], scores_SS[2, 1, 3, 3], rtol=1e-4)
    np.testing.assert_allclose(scores_SS[3, 2, 0, 1], scores_SS[3, 3, 0, 2], rtol=1e-4)
    assert abs(scores_SS[0, 0, 1, 2] - scores_SS[0, 0, 2, 1]) > 1e-2


@pytest.mark.parametrize("width", [6, 4])
def test_a_width_without_room_for_waves_is_refused(width):
    with pytest.raises(ValueError, match=f"a width of 8 or more that divides by 4, got {width}"):
        positions.sincos2d(2, 2, width)


def test_a_head_without_room_for_angles_is_refused():
    with pytest.raises(ValueError, match="a head width that divides by 4, got 6"):
        positions.rope2d(2, 2, 6)
