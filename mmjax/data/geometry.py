"""Geometry on the host: crop, resize, affine and flip, to a fixed uint8 size.

An op is a frozen dataclass; `op(image_HWC, rng)` maps one uint8 picture to another, C = 3 (RGB) or 4
(RGBA, straight alpha), and takes all its randomness from the NumPy generator. Ops run in reader threads,
hence NumPy and Pillow only. Pillow multiplies by alpha before it resamples and divides after, so the
hidden colour of transparent pixels never shows as a fringe.

Letters: H W image, C channels.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from PIL import Image

from mmjax.data.decode import opaque

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
WHITE = (255, 255, 255)


def apply(ops: tuple[Callable, ...], image_HWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture after all `ops`, in order, as a contiguous array.

    Raises:
        ValueError: the picture is not uint8 [H, W, 3 or 4].
    """
    _check_image(image_HWC, channels=(3, 4))
    for op in ops:
        image_HWC = op(image_HWC, rng)
    return np.ascontiguousarray(image_HWC)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resize:
    """To size x size ("squash"), or to a shorter side of `size` with the aspect kept ("shortest").

    Antialiased when it shrinks. The longer side is rounded down, as in torchvision.
    """

    size: int  # pixels
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    mode: Literal["squash", "shortest"] = "squash"

    def __post_init__(self):
        _check_size(self.size)
        _check_choice("filter", self.filter, tuple(_FILTERS))
        _check_choice("mode", self.mode, ("squash", "shortest"))

    def __call__(self, image_HWC: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        height, width = image_HWC.shape[:2]
        shorter = min(height, width)
        if self.mode == "squash":
            height, width = self.size, self.size
        else:
            height, width = self.size * height // shorter, self.size * width // shorter
        picture = Image.fromarray(image_HWC).resize((width, height), _FILTERS[self.filter])
        return np.asarray(picture)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CentreCrop:
    """The middle size x size pixels; an odd margin is rounded as in torchvision."""

    size: int  # pixels

    def __post_init__(self):
        _check_size(self.size)

    def __call__(self, image_HWC: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        height, width = image_HWC.shape[:2]
        if min(height, width) < self.size:
            raise ValueError(
                f"CentreCrop(size={self.size}) got a picture of {height}x{width}; resize it first"
            )
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return image_HWC[top : top + self.size, left : left + self.size]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """A random rectangle of the picture, resized to size x size. Szegedy et al. 2014, arXiv:1409.4842.

    The area is uniform, then the logarithm of the aspect is uniform among the aspects that fit the
    picture at that area: no rejection loop, so every picture costs the same. Where none fits (a very long
    picture) the nearest aspect is taken and the area shrinks.
    """

    size: int  # pixels
    area: tuple[float, float] = (0.9, 1.0)  # share of the picture's area
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of the rectangle, in source pixels
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"

    def __post_init__(self):
        _check_size(self.size)
        _check_choice("filter", self.filter, tuple(_FILTERS))
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area={self.area} must be (least, most) with 0 < least <= most <= 1")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect={self.aspect} must be (least, most) with 0 < least <= most")

    def __call__(self, image_HWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        left, top, width, height = self.rectangle(image_HWC.shape[0], image_HWC.shape[1], rng)
        # Sums may overshoot the picture by rounding, which Pillow refuses.
        box = (left, top, min(left + width, image_HWC.shape[1]), min(top + height, image_HWC.shape[0]))
        picture = Image.fromarray(image_HWC).resize((self.size, self.size), _FILTERS[self.filter], box=box)
        return np.asarray(picture)

    def rectangle(
        self, height: int, width: int, rng: np.random.Generator
    ) -> tuple[float, float, float, float]:
        """A random (left, top, width, height) in a picture of height x width, in pixels, not rounded."""
        pixels = rng.uniform(*self.area) * height * width
        narrowest, widest = np.clip((pixels / height**2, width**2 / pixels), *self.aspect)
        aspect = math.exp(rng.uniform(math.log(narrowest), math.log(widest)))
        crop_width = min(math.sqrt(pixels * aspect), width, height * aspect)
        crop_height = crop_width / aspect
        left, top = rng.uniform(0, width - crop_width), rng.uniform(0, height - crop_height)
        return left, top, crop_width, crop_height


@dataclasses.dataclass(frozen=True, kw_only=True)
class Affine:
    """A random affine map about the picture's centre, to size x size, in one resampling pass.

    Without randomness the shorter side of the picture spans `size` and the longer one is cropped. Where
    the picture does not reach, RGBA is transparent and RGB is white or its nearest border pixel.

    Pillow's `transform` reads a fixed 4x4 neighbourhood and does not antialias, so a picture that shrinks
    by a factor of 2 or more is first averaged over whole blocks, which leaves a factor in [1, 2).
    """

    size: int  # pixels
    rotation: float = 15.0  # degrees, uniform in +-rotation
    log_scale: tuple[float, float] = (-0.15, 0.25)  # log of the magnification, uniform; above 0 zooms in
    log_aspect: float = 0.12  # log of the change of width / height, uniform in +-log_aspect
    shear: float = 0.12  # horizontal shift per unit of height, uniform in +-shear
    shift: float = 0.07  # share of `size`, uniform in +-shift on either axis
    background: Literal["white", "edge"] = "white"  # for RGB; RGBA is always transparent
    filter: Literal["bilinear", "bicubic"] = "bicubic"

    def __post_init__(self):
        _check_size(self.size)
        _check_choice("background", self.background, ("white", "edge"))
        _check_choice("filter", self.filter, ("bilinear", "bicubic"))
        for name in ("rotation", "log_aspect", "shear", "shift"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is a half width; use 0 or more")
        if self.log_scale[0] > self.log_scale[1]:
            raise ValueError(f"log_scale={self.log_scale} must be (least, most)")

    def __call__(self, image_HWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width, channels = image_HWC.shape
        turn, shift = self.draw(rng)
        fit = self.size / min(height, width)
        picture = Image.fromarray(image_HWC)
        block = int(1 / (fit * math.sqrt(np.linalg.det(turn))))
        if block >= 2:
            picture = picture.reduce(block)
        # Output pixel p shows source point back @ p + start, both counted from the upper left corner.
        back = np.linalg.inv(turn) / (fit * max(block, 1))
        centre = np.array([width, height]) / (2 * max(block, 1))
        start = centre - back @ (self.size / 2 + shift)
        if channels == 3 and self.background == "edge":
            picture, start = _extended(picture, back, start, self.size)
        coefficients = (*back[0], start[0], *back[1], start[1])
        fill = WHITE if channels == 3 else (0, 0, 0, 0)
        picture = picture.transform(
            (self.size, self.size),
            Image.Transform.AFFINE,
            coefficients,
            resample=_FILTERS[self.filter],
            fillcolor=fill,
        )
        return np.asarray(picture)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A random 2x2 map of (x, y) offsets from the centre, y downwards, and a shift in output pixels."""
        angle = math.radians(rng.uniform(-self.rotation, self.rotation))
        scale = math.exp(rng.uniform(*self.log_scale))
        stretch = math.exp(rng.uniform(-self.log_aspect, self.log_aspect) / 2)
        shear = rng.uniform(-self.shear, self.shear)
        shift = rng.uniform(-self.shift, self.shift, size=2) * self.size
        rotate = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        slant = np.array([[stretch, shear / stretch], [0.0, 1 / stretch]])
        return scale * rotate @ slant, shift


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirrors left and right with probability `prob`."""

    prob: float = 0.3

    def __post_init__(self):
        if not 0 <= self.prob <= 1:
            raise ValueError(f"prob={self.prob} is a probability; use a value in [0, 1]")

    def __call__(self, image_HWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image_HWC[:, ::-1] if rng.random() < self.prob else image_HWC


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a picture is prepared for evaluation and for a served model; it belongs to the weights.

    `host` makes the uint8 picture; `colour.normalise(images, mean, std)` ends the work on the device.
    """

    size: int  # pixels
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    mode: Literal["shortest", "squash"] = "shortest"  # crop the longer side, or change the aspect
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of values in [0, 1]
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    background: tuple[int, int, int] = WHITE  # what transparent pixels show, 0-255

    def __post_init__(self):
        Resize(size=self.size, filter=self.filter, mode=self.mode)  # checks these three
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean={self.mean} and std={self.std} need three values each, std above 0")
        if len(self.background) != 3 or min(self.background) < 0 or max(self.background) > 255:
            raise ValueError(f"background={self.background} must be three values in 0..255")

    def host(self, image_HWC: np.ndarray) -> np.ndarray:
        """The picture, uint8 [H, W, 1, 3 or 4], as uint8 [size, size, 3].

        Alpha is blended with `background`, then the picture is resized and its centre cropped.

        Raises:
            ValueError: another shape or dtype.
        """
        _check_image(image_HWC, channels=(1, 3, 4))
        resized = Resize(size=self.size, filter=self.filter, mode=self.mode)(
            opaque(image_HWC, self.background)
        )
        return np.ascontiguousarray(CentreCrop(size=self.size)(resized))


def _extended(picture: Image.Image, back: np.ndarray, start: np.ndarray, size: int):
    """`picture` with its border repeated as far as the output looks, and `start` for the larger picture."""
    corners = start + np.array([(0, 0), (size, 0), (0, size), (size, size)]) @ back.T
    before = np.ceil(np.maximum(-corners.min(axis=0), 0)).astype(int)
    after = np.ceil(np.maximum(corners.max(axis=0) - picture.size, 0)).astype(int)
    margins = ((before[1], after[1]), (before[0], after[0]), (0, 0))
    return Image.fromarray(np.pad(np.asarray(picture), margins, mode="edge")), start + before


def _check_image(image_HWC: np.ndarray, channels: tuple[int, ...]) -> None:
    shape, dtype = np.shape(image_HWC), getattr(image_HWC, "dtype", type(image_HWC).__name__)
    if len(shape) != 3 or shape[2] not in channels or dtype != np.uint8 or 0 in shape:
        raise ValueError(f"a picture must be uint8 [H, W, C] with C in {channels}, got {dtype} {list(shape)}")


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"size={size} must be 1 pixel or more")


def _check_choice(name: str, given: str, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise ValueError(f"{name}={given!r} must be one of {', '.join(choices)}")
