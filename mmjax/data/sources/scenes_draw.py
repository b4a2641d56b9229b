"""Paints scenes.

Things are stamped from anti-aliased masks that are made once for a picture size. Pictures are the same on
every platform: masks need only the operations that IEEE 754 rounds exactly (+ - * /, comparisons), which
is why shapes are polygons and discs with literal corners and no sine decides a pixel; all else is integers.

Letters: H W picture, M side of a mask, P side of a mask in samples.
"""

import functools
from typing import NamedTuple

import numpy as np

from mmjax.data.sources.scenes_spec import SHAPES, Rng, Scene, Thing, mix64

# Dark and light enough that +-SHADE stays within 0..255.
PALETTE = {
    "red": (214, 39, 40),
    "green": (44, 150, 44),
    "blue": (31, 90, 214),
    "yellow": (240, 210, 30),
    "purple": (130, 50, 170),
    "orange": (240, 130, 20),
    "cyan": (30, 200, 210),
    "pink": (240, 130, 190),
    "brown": (120, 70, 35),
    "gray": (125, 125, 125),
}
SHADE = 15
_PAINT = {color: np.array(rgb, np.int16) for color, rgb in PALETTE.items()}
_PAPER = (
    *((250, 250, 250), (232, 226, 210), (205, 220, 235)),
    *((60, 60, 66), (222, 235, 215), (240, 222, 228)),
)
_RADII = {"small": (6.5, 7.0, 7.5), "large": (11.0, 12.0, 13.0)}  # in 1/64 of the picture's side
_ROTATIONS = ((1.0, 0.0), (0.9781, 0.2079), (0.9781, -0.2079), (0.9397, 0.342))  # cosine, sine
_OPAQUE = 64  # full coverage in a mask

_POLYGONS = {
    "square": ((-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)),
    "triangle": ((0, -0.95), (0.95, 0.75), (-0.95, 0.75)),
    "star": (
        *((0, -1), (0.27, -0.372), (0.951, -0.309), (0.437, 0.142), (0.588, 0.809)),
        *((0, 0.46), (-0.588, 0.809), (-0.437, 0.142), (-0.951, -0.309), (-0.27, -0.372)),
    ),
    "heart": ((0, 0.95), (0.813, 0.015), (0.45, -0.3), (-0.45, -0.3), (-0.813, 0.015)),
    "cross": (
        *((-0.3, -0.92), (0.3, -0.92), (0.3, -0.3), (0.92, -0.3), (0.92, 0.3), (0.3, 0.3)),
        *((0.3, 0.92), (-0.3, 0.92), (-0.3, 0.3), (-0.92, 0.3), (-0.92, -0.3), (-0.3, -0.3)),
    ),
    "diamond": ((0, -1), (0.7, 0), (0, 1), (-0.7, 0)),
    "hexagon": ((0.95, 0), (0.475, 0.82), (-0.475, 0.82), (-0.95, 0), (-0.475, -0.82), (0.475, -0.82)),
    "arrow": ((-0.95, -0.26), (0, -0.26), (0, -0.8), (0.98, 0), (0, 0.8), (0, 0.26), (-0.95, 0.26)),
    "drop": ((0, -1), (0.524, 0.101), (-0.524, 0.101)),
    "bolt": ((0.1, -1), (-0.72, 0.2), (-0.12, 0.2), (-0.45, 1), (0.75, -0.28), (0.16, -0.28), (0.62, -1)),
}


class Place(NamedTuple):
    """Where a thing is stamped, in pixels, and which of the radii of its size it has."""

    thing: Thing
    x: int
    y: int
    step: int


def render(scene: Scene, rng: Rng, px: int) -> np.ndarray:
    """The scene as uint8 [px, px, 3].

    Background, layout, turns and shades come from the random numbers and the relation or counts alone (a
    single thing's size apart), so that scenes which differ in their things differ nowhere else.
    """
    image_HW3 = rng.choice(_backgrounds(px)).copy()
    masks = _masks(px)
    for thing, x, y, step in _layout(scene, rng, px):
        mask_MM1 = masks[thing.shape, thing.size, step, rng.below(len(_ROTATIONS)), thing.texture]
        _stamp(image_HW3, mask_MM1, _PAINT[thing.color] + (rng.below(2 * SHADE + 1) - SHADE), x, y)
    return image_HW3.astype(np.uint8)


def prepare(px: int) -> None:
    """Makes what `render` reads at this picture size; it would do so at its first call."""
    _backgrounds(px)
    _masks(px)


def _layout(scene: Scene, rng: Rng, px: int) -> list[Place]:
    """Where everything goes, what lies behind first. Constants are in 1/64 of the picture's side."""

    def about(center, spread):
        spread = spread * px // 64
        return center * px // 64 + rng.below(2 * spread + 1) - spread

    def step():
        return rng.below(3)

    things = scene.things
    if scene.kind == "single":
        spread = 32 - (14 if things[0].size == "large" else 8)
        return [Place(things[0], about(32, spread), about(32, spread), step())]
    if scene.kind == "count":
        cells = _sample(rng, 9, sum(scene.counts))
        every = [thing for thing, count in zip(things, scene.counts, strict=True) for _ in range(count)]
        pairs = zip(every, cells, strict=True)
        return [Place(t, about(11 + 21 * (c % 3), 2), about(11 + 21 * (c // 3), 2), step()) for t, c in pairs]
    if scene.kind == "row":
        # Along the direction in thirds, across it around a common line.
        line = 32 + rng.below(29) - 14
        spots = [(about(11 + 21 * k, 1), about(line, 2)) for k in range(3)]
    elif scene.relation in ("inside", "in front of"):
        x, y = about(32, 13), about(32, 13)
        if scene.relation == "inside":  # the smallest within the largest
            return [Place(things[1], x, y, 2), Place(things[0], x, y, 0)]
        aside = 4 * px // 64
        front = x + aside * (2 * rng.below(2) - 1), y + aside * (2 * rng.below(2) - 1)
        return [Place(things[1], x, y, step()), Place(things[0], *front, step())]
    else:
        apart = 15 + rng.below(4)
        side = -apart if scene.relation in ("left of", "above") else apart
        spots = [(about(32 + side, 1), about(32, 6)), (about(32 - side, 1), about(32, 6))]
    if scene.relation in ("above", "below", "top to bottom"):
        spots = [(y, x) for x, y in spots]
    return [Place(thing, *spot, step()) for thing, spot in zip(things, spots, strict=True)]


def _sample(rng: Rng, n: int, k: int) -> list[int]:
    """k of the numbers below n, without repetition."""
    numbers = list(range(n))
    return [numbers.pop(rng.below(len(numbers))) for _ in range(k)]


def _stamp(image_HW3: np.ndarray, mask_MM1: np.ndarray, paint_3: np.ndarray, x: int, y: int) -> None:
    """Blends the paint into the picture where the mask, centered at (x, y), covers it."""
    reach, (height, width) = mask_MM1.shape[0] // 2, image_HW3.shape[:2]
    top, left = y - reach, x - reach
    bottom, right = min(y + reach + 1, height), min(x + reach + 1, width)
    window = image_HW3[max(top, 0) : bottom, max(left, 0) : right]
    cover = mask_MM1[max(-top, 0) : bottom - top, max(-left, 0) : right - left]
    # int16 holds it: 255 * 64 + 32 < 2**15.
    window += ((paint_3 - window) * cover + _OPAQUE // 2) >> 6


@functools.cache
def _backgrounds(px: int) -> tuple[np.ndarray, ...]:
    """Every paper with every pattern on it, int16 [px, px, 3]."""
    x_HW, y_HW = np.meshgrid(np.arange(px), np.arange(px))
    bits_HW = mix64((x_HW + px * y_HW + 1).astype(np.uint64) << 32)
    noise_HW = ((bits_HW >> 8) % 17 + (bits_HW >> 40) % 17).astype(int) - 16
    slope_HW = 40 * x_HW // px - 20
    waves_HW = abs(64 * x_HW // px % 12 - 6) * 2 - 6
    patterns = 0 * x_HW, slope_HW, slope_HW.T, noise_HW, noise_HW + slope_HW, waves_HW
    return tuple(
        np.clip(np.array(paper) + pattern_HW[..., None], 0, 255).astype(np.int16)
        for paper in _PAPER
        for pattern_HW in patterns
    )


@functools.cache
def _masks(px: int) -> dict[tuple[str, str, int, int, str], np.ndarray]:
    """Coverage 0..64 as int16 [M, M, 1], M odd, by (shape, size, step, rotation, texture)."""
    samples = 4 if px < 128 else 2  # a side, in each pixel
    masks = {}
    for size, radii in _RADII.items():
        for step, radius in enumerate(radius * px / 64 for radius in radii):
            m = 2 * int(1.2 * radius + 1.5) + 1  # a corner may lie 1.2 radii from the center
            line_P = ((np.arange(m * samples) + 0.5) / samples - m / 2) / radius
            across_PP, down_PP = np.meshgrid(line_P, line_P)
            for rotation, (cosine, sine) in enumerate(_ROTATIONS):
                x_PP = across_PP * cosine - down_PP * sine
                y_PP = across_PP * sine + down_PP * cosine
                for shape in SHAPES:
                    area_PP = _area(shape, x_PP, y_PP)
                    for texture, cover_PP in _textured(area_PP, x_PP, y_PP, size, px * samples).items():
                        cover_MM = cover_PP.reshape(m, samples, m, samples).sum((1, 3))
                        mask_MM = (cover_MM * _OPAQUE // samples**2).astype(np.int16)
                        masks[shape, size, step, rotation, texture] = mask_MM[..., None]
    return masks


def _textured(area_PP, x_PP, y_PP, size: str, side: int) -> dict[str, np.ndarray]:
    """Which points of the area are painted, by texture; `side` is the picture's, in samples.

    Coordinates as of `_area`. Stripes and dots leave a thin rim, without which thin shapes would fray.
    """
    # Periods to a unit and width of an outline: as fine as stays visible at 48 pixels.
    stripes, dots, line = (1.9, 2.0, 7) if size == "large" else (1.5, 1.6, 5)
    inner_PP = _eroded(area_PP, times=-(-side // 128))
    diagonal_PP = 0.7 * (x_PP + y_PP)
    stripe_PP = stripes * diagonal_PP
    u_PP, v_PP = dots * diagonal_PP + 0.5, dots * 0.7 * (x_PP - y_PP) + 0.5
    return {
        "plain": area_PP,
        "striped": area_PP & ~(inner_PP & (stripe_PP - np.floor(stripe_PP) >= 0.5)),
        "dotted": area_PP & ~(inner_PP & _disc(u_PP - np.floor(u_PP), v_PP - np.floor(v_PP), 0.5, 0.5, 0.36)),
        "hollow": area_PP & ~_eroded(area_PP, times=max(4, line * side // 256)),
    }


def _area(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points belong to the shape: x to the right and y down from its center, its radius 1."""
    match shape:
        case "circle":
            return _disc(x, y, 0, 0, 0.95)
        case "ring":
            return _disc(x, y, 0, 0, 0.95) & ~_disc(x, y, 0, 0, 0.4)
        case "crescent":
            return _disc(x, y, 0, 0, 0.95) & ~_disc(x, y, 0.45, 0, 0.7)
        case "half-disc":
            return _disc(x, y, 0, 0.45, 0.95) & (y < 0.45)
        case "heart":
            lobes = _disc(x, y, -0.45, -0.3, 0.48) | _disc(x, y, 0.45, -0.3, 0.48)
            return lobes | _polygon(x, y, _POLYGONS[shape])
        case "drop":
            return _disc(x, y, 0, 0.35, 0.58) | _polygon(x, y, _POLYGONS[shape])
    return _polygon(x, y, _POLYGONS[shape])


def _disc(x, y, center_x, center_y, radius):
    return (x - center_x) * (x - center_x) + (y - center_y) * (y - center_y) < radius * radius


def _polygon(x, y, corners):
    """Whether a ray to the right crosses the outline an odd number of times."""
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def _eroded(area: np.ndarray, times: int) -> np.ndarray:
    """The area less its rim; by turns four and eight neighbours, so that the rim is as wide on slopes."""
    for turn in range(times):
        upright = area & np.roll(area, 1, 0) & np.roll(area, -1, 0)
        beside = upright if turn % 2 else area
        area = upright & np.roll(beside, 1, 1) & np.roll(beside, -1, 1)
    return area
