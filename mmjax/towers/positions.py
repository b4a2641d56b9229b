"""Where a patch stands in the picture: sines and cosines to add, and angles to turn queries and keys by
(`mmjax.kernels.attention`).

Letters: S positions, P pairs of a head's width.
"""

import jax.numpy as jnp


def sincos2d(height: int, width: int, features: int):
    """[height x width, features]: sines and cosines of each patch's column, then of its row.

    Chen et al. 2021, arXiv:2104.02057, section 4.3, with wavelengths from 2 pi to 20,000 pi, both included.

    Raises:
        ValueError: `features` is no multiple of 4, or below 8.
    """
    if features % 4 or features < 8:
        raise ValueError(f"positions='sincos2d' need a width of 8 or more that divides by 4, got {features}")
    bands = features // 4
    frequencies = 10_000.0 ** (-jnp.arange(bands) / (bands - 1))
    rows_SP, columns_SP = (place[:, None] * frequencies for place in _grid(height, width))
    waves = (jnp.sin(columns_SP), jnp.cos(columns_SP), jnp.sin(rows_SP), jnp.cos(rows_SP))
    return jnp.concatenate(waves, axis=1)


def rope2d(height: int, width: int, head_width: int, *, first: int = 0):
    """[height x width, head_width / 2]: angles of each patch, half of them by its column and half by its row.

    Su et al. 2021, arXiv:2104.09864, along both axes of a picture as in Bolya et al. 2025, arXiv:2504.13181.

    Args:
        first: place of the first row and column. Angles 0 are what tokens without a place have, so a class
            token knows patches apart by it; PE-Core counts from 1 where there is one.

    Raises:
        ValueError: `head_width` is no multiple of 4.
    """
    if head_width % 4:
        raise ValueError(f"rotary positions need a head width that divides by 4, got {head_width}")
    bands = head_width // 4
    frequencies = 10_000.0 ** (-jnp.arange(bands) / bands)
    rows_SP, columns_SP = ((place + first)[:, None] * frequencies for place in _grid(height, width))
    return jnp.concatenate([columns_SP, rows_SP], axis=1)


def _grid(height: int, width: int):
    """Rows and columns [S] of the patches, in float32."""
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    return rows.reshape(-1).astype(jnp.float32), columns.reshape(-1).astype(jnp.float32)
