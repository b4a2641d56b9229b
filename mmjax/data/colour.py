"""Colour on the device: augmentation and normalisation of whole batches inside the jitted step.

An op is a frozen dataclass; `op(image_BHWC, key)` maps float32 values in [0, 1] to the same, C = 3 (RGB)
or 4 (RGBA, straight alpha). Every example draws for itself, by its position in the global batch: one draw
of shape [B], which is the same however the batch lies over the devices. No op needs vmap.

Letters: B batch, H W image, C channels; a digit is an axis of that length.
"""

import dataclasses
import importlib
from collections.abc import Callable

import jax
import jax.numpy as jnp


def augment(ops: tuple[Callable, ...], image_BHWC: jax.Array, key: jax.Array) -> jax.Array:
    """All `ops` in order, then what is still transparent on white.

    Args:
        image_BHWC: uint8, C = 3 or 4.
        key: one for the whole batch; op i gets `fold_in(key, i)`.

    Returns:
        float32 [B, H, W, 3] in [0, 1]; `normalise` comes next.

    Raises:
        ValueError: another shape or dtype, or an op that needs alpha on pictures without.
    """
    if image_BHWC.ndim != 4 or image_BHWC.shape[-1] not in (3, 4) or image_BHWC.dtype != jnp.uint8:
        raise ValueError(
            f"augment wants uint8 [B, H, W, 3 or 4], got {image_BHWC.dtype} {list(image_BHWC.shape)}"
        )
    image_BHWC = image_BHWC.astype(jnp.float32) / 255
    for index, op in enumerate(ops):
        image_BHWC = op(image_BHWC, jax.random.fold_in(key, index))
    return _over(image_BHWC, 1.0)


def without_alpha(ops: tuple[Callable, ...]) -> tuple[Callable, ...]:
    """`ops` for pictures without alpha: less those that do nothing to these, or need one."""
    return tuple(op for op in ops if not isinstance(op, (Outline, Background)))


def normalise(
    image_BHW3: jax.Array, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> jax.Array:
    """(image - mean) / std per channel, float32; uint8 pictures are first divided by 255."""
    if image_BHW3.shape[-1] != 3:
        raise ValueError(f"normalise wants three channels, got shape {list(image_BHW3.shape)}")
    if image_BHW3.dtype == jnp.uint8:
        image_BHW3 = image_BHW3.astype(jnp.float32) / 255
    return (image_BHW3 - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColourDrop:
    """Replaces the colours by their luma (Rec. 601)."""

    prob: float = 0.15

    def __post_init__(self):
        _check_prob(self.prob)

    def __call__(self, image_BHWC: jax.Array, key: jax.Array) -> jax.Array:
        gray_BHW3 = _dm_pix().rgb_to_grayscale(image_BHWC[..., :3], keep_dims=True)
        return _sometimes(key, self.prob, _with_alpha(gray_BHW3, image_BHWC), image_BHWC)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Invert:
    """Replaces every colour by its complement."""

    prob: float = 0.03

    def __post_init__(self):
        _check_prob(self.prob)

    def __call__(self, image_BHWC: jax.Array, key: jax.Array) -> jax.Array:
        return _sometimes(key, self.prob, _with_alpha(1 - image_BHWC[..., :3], image_BHWC), image_BHWC)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jitter:
    """Changes brightness, contrast, saturation and hue, in this order, each uniformly."""

    prob: float = 0.5
    brightness: float = 0.2  # added, in +-brightness
    contrast: float = 0.3  # factor in 1 +- contrast about the mean of the picture
    saturation: float = 0.4  # factor in 1 +- saturation
    hue: float = 0.04  # turns of the colour circle, in +-hue

    def __post_init__(self):
        _check_prob(self.prob)
        for name in ("brightness", "contrast", "saturation", "hue"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is a half width; use a value in [0, 1]")

    def __call__(self, image_BHWC: jax.Array, key: jax.Array) -> jax.Array:
        key_hit, key_size = jax.random.split(key)
        # One draw for all four: each further one adds some 0.07 s to the compilation of the step.
        size_4B111 = jax.random.uniform(key_size, (4, image_BHWC.shape[0], 1, 1, 1), minval=-1, maxval=1)
        brightness_B111, contrast_B111 = size_4B111[0] * self.brightness, size_4B111[1] * self.contrast
        saturation_B111, hue_B111 = size_4B111[2] * self.saturation, size_4B111[3] * self.hue
        pix = _dm_pix()
        rgb_BHW3 = pix.adjust_brightness(image_BHWC[..., :3], brightness_B111)
        # dm_pix.adjust_contrast would count the hidden colour of transparent pixels.
        mean_B113 = _visible_mean(_with_alpha(rgb_BHW3, image_BHWC))
        rgb_BHW3 = jnp.clip((1 + contrast_B111) * (rgb_BHW3 - mean_B113) + mean_B113, 0, 1)
        # Both in one trip through HSV; dm_pix's adjust_saturation and adjust_hue make one each.
        still_B111 = jnp.zeros_like(hue_B111)
        factor_B113 = 1 + jnp.concatenate([still_B111, saturation_B111, still_B111], axis=-1)
        turn_B113 = jnp.concatenate([hue_B111, still_B111, still_B111], axis=-1)
        # dm_pix adds a boolean to a float.
        with jax.numpy_dtype_promotion("standard"):
            hsv_BHW3 = jnp.minimum(pix.rgb_to_hsv(rgb_BHW3) * factor_B113, 1)
            rgb_BHW3 = pix.hsv_to_rgb(hsv_BHW3 + turn_B113)
        return _sometimes(key_hit, self.prob, _with_alpha(rgb_BHW3, image_BHWC), image_BHWC)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edges:
    """Redraws a picture as dark lines on white where its luma changes; it becomes opaque.

    A line is as dark as `gain` times the Sobel gradient, scaled so that a straight step from black to
    white has gradient 1 on both its sides.
    """

    prob: float = 0.1
    gain: float = 2.0

    def __post_init__(self):
        _check_prob(self.prob)
        if self.gain <= 0:
            raise ValueError(f"gain={self.gain} must be positive")

    def __call__(self, image_BHWC: jax.Array, key: jax.Array) -> jax.Array:
        luma_BHW = _dm_pix().rgb_to_grayscale(_over(image_BHWC, 1.0))[..., 0]
        around = jnp.pad(luma_BHW, ((0, 0), (1, 1), (1, 1)), mode="edge")
        across = around[:, :, 2:] - around[:, :, :-2]
        down = around[:, 2:] - around[:, :-2]
        across_BHW = (across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]) / 4
        down_BHW = (down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]) / 4
        line_BHW = 1 - jnp.minimum(self.gain * jnp.sqrt(across_BHW**2 + down_BHW**2), 1)
        opaque = [jnp.ones_like(line_BHW)] * (image_BHWC.shape[-1] - 3)
        drawn_BHWC = jnp.stack([line_BHW] * 3 + opaque, axis=-1)
        return _sometimes(key, self.prob, drawn_BHWC, image_BHWC)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outline:
    """Draws a black line around the silhouette, outside of it; needs pictures with alpha."""

    prob: float = 0.2
    width: int = 1  # pixels

    def __post_init__(self):
        _check_prob(self.prob)
        if self.width < 1:
            raise ValueError(f"width={self.width} must be 1 pixel or more")

    def __call__(self, image_BHWC: jax.Array, key: jax.Array) -> jax.Array:
        if image_BHWC.shape[-1] != 4:
            raise ValueError(
                f"Outline needs pictures with alpha (C = 4), got C = {image_BHWC.shape[-1]}; "
                "take it out of the colour ops, or put it before Background"
            )
        rgb_BHW3, alpha_BHW1 = image_BHWC[..., :3], image_BHWC[..., 3:]
        grown_BHW1 = alpha_BHW1
        for _ in range(self.width):
            grown_BHW1 = _grown(grown_BHW1)
        # Black fills only what the silhouette grew by: a drawing of glass stays as clear as it was.
        drawn_BHW3 = rgb_BHW3 * alpha_BHW1 / jnp.maximum(grown_BHW1, 1e-6)
        drawn_BHWC = jnp.concatenate([drawn_BHW3, grown_BHW1], axis=-1)
        return _sometimes(key, self.prob, drawn_BHWC, image_BHWC)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Background:
    """Puts transparent pictures on white, or with probability `prob` on a random colour: RGBA to RGB.

    Colours are uniform in the RGB cube. Pictures without alpha pass unchanged.
    """

    prob: float = 0.15

    def __post_init__(self):
        _check_prob(self.prob)

    def __call__(self, image_BHWC: jax.Array, key: jax.Array) -> jax.Array:
        key_hit, key_colour = jax.random.split(key)
        colour_B113 = jax.random.uniform(key_colour, (image_BHWC.shape[0], 1, 1, 3))
        white_B113 = jnp.ones_like(colour_B113)
        return _over(image_BHWC, _sometimes(key_hit, self.prob, colour_B113, white_B113))


def _sometimes(key: jax.Array, prob: float, changed: jax.Array, image: jax.Array) -> jax.Array:
    """`changed` for a share `prob` of the examples, chosen independently, `image` for the others."""
    hit_B = jax.random.bernoulli(key, float(prob), image.shape[:1])
    return jnp.where(hit_B[:, None, None, None], changed, image)


def _over(image_BHWC: jax.Array, colour: jax.Array | float) -> jax.Array:
    """The picture on an opaque `colour`, without alpha; the picture itself where it has none."""
    if image_BHWC.shape[-1] == 3:
        return image_BHWC
    rgb_BHW3, alpha_BHW1 = image_BHWC[..., :3], image_BHWC[..., 3:]
    return rgb_BHW3 * alpha_BHW1 + colour * (1 - alpha_BHW1)


def _with_alpha(rgb_BHW3: jax.Array, image_BHWC: jax.Array) -> jax.Array:
    """New colours with the alpha of `image_BHWC`, if it has one."""
    return jnp.concatenate([rgb_BHW3, image_BHWC[..., 3:]], axis=-1)


def _visible_mean(image_BHWC: jax.Array) -> jax.Array:
    """Mean colour [B, 1, 1, 3] of each picture, weighted by alpha; zero where all is transparent."""
    rgb_BHW3, alpha_BHW1 = image_BHWC[..., :3], image_BHWC[..., 3:]
    if alpha_BHW1.shape[-1] == 0:
        return jnp.mean(rgb_BHW3, axis=(1, 2), keepdims=True)
    # As a contraction: a third of the time of multiply and sum on a CPU.
    sum_B3 = jnp.einsum("bhwc,bhw->bc", rgb_BHW3, alpha_BHW1[..., 0], precision="highest")
    weight_B1 = jnp.sum(alpha_BHW1, axis=(1, 2))
    return (sum_B3 / jnp.maximum(weight_B1, 1e-6))[:, None, None, :]


def _grown(alpha_BHW1: jax.Array) -> jax.Array:
    """Largest value among each pixel and its eight neighbours: rows first, then columns."""
    around = jnp.pad(alpha_BHW1, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = jnp.maximum(jnp.maximum(around[:, :-2], around[:, 1:-1]), around[:, 2:])
    return jnp.maximum(jnp.maximum(rows[:, :, :-2], rows[:, :, 1:-1]), rows[:, :, 2:])


def _dm_pix():
    """The dm_pix module, which machines without a package index may lack."""
    try:
        return importlib.import_module("dm_pix")
    except ImportError as error:
        raise ValueError(
            "ColourDrop, Jitter and Edges need dm_pix, which is not installed; pip install dm-pix, "
            "or take them out of the colour ops"
        ) from error


def _check_prob(prob: float) -> None:
    if not 0 <= prob <= 1:
        raise ValueError(f"prob={prob} is a probability; use a value in [0, 1]")
