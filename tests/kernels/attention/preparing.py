"""Queries or keys, normalised and turned, and gradients through it: in float64, by matrices of derivatives.

Letters: S positions, K head width, P pairs of K.
"""

from typing import NamedTuple

import numpy as np

EPS = 1e-6


class Prepared(NamedTuple):
    value_SK: np.ndarray
    unit_SK: np.ndarray  # normalised, before gain and turn
    turn_SKK: np.ndarray
    slope_SKK: np.ndarray  # of a value (second axis) by what was given (third axis)

    def pull(self, gradient_SK):
        """Gradients by what was given, and by its gain."""
        by_given_SK = np.einsum("sij,si->sj", self.slope_SKK, gradient_SK)
        return by_given_SK, np.einsum("sij,si,sj->j", self.turn_SKK, gradient_SK, self.unit_SK)


def prepare(x_SK, gain_K, angles_SP):
    """Ba et al. 2016, arXiv:1607.06450, eq. 4, without a bias, then Su et al. 2021, arXiv:2104.09864, eq. 15;
    None of either leaves it out."""
    length, width = x_SK.shape
    unit_SK, slope_SKK = x_SK, np.broadcast_to(np.eye(width), (length, width, width))
    if gain_K is not None:
        middle_SK = x_SK - x_SK.mean(axis=1, keepdims=True)
        deviation_S1 = np.sqrt((middle_SK**2).mean(axis=1, keepdims=True) + EPS)
        unit_SK = middle_SK / deviation_S1
        outer_SKK = unit_SK[:, :, None] * unit_SK[:, None]
        slope_SKK = (np.eye(width) - 1 / width - outer_SKK / width) / deviation_S1[..., None]
        slope_SKK = np.float64(gain_K)[:, None] * slope_SKK
    value_SK = unit_SK if gain_K is None else unit_SK * gain_K
    turn_SKK = np.broadcast_to(np.eye(width), slope_SKK.shape) if angles_SP is None else _turn(angles_SP)
    value_SK = np.einsum("sij,sj->si", turn_SKK, value_SK)
    return Prepared(value_SK, unit_SK, turn_SKK, turn_SKK @ slope_SKK)


def _turn(angles_SP):
    """Neighbours as points of the plane, by an angle each."""
    angles_SP = np.float64(angles_SP)
    turn_SKK = np.zeros((len(angles_SP), 2 * angles_SP.shape[1], 2 * angles_SP.shape[1]))
    first = np.arange(0, turn_SKK.shape[1], 2)
    turn_SKK[:, first, first] = turn_SKK[:, first + 1, first + 1] = np.cos(angles_SP)
    turn_SKK[:, first + 1, first] = np.sin(angles_SP)
    turn_SKK[:, first, first + 1] = -np.sin(angles_SP)
    return turn_SKK
