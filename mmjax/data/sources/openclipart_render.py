"""Renders SVG files of any size to squares, each cropped to what is visible, and tells which look alike.

The marks of a picture, by which copies are found, are made at one size, whatever size is built: so the
splits are the same for all. Nor are fonts of the system used, which differ: a few drawings lack letters.

Letters: H W C image.
"""

import hashlib
import io
from typing import NamedTuple

import numpy as np
import resvg_py
from PIL import Image

LOOK_PX = 256  # longer side at which marks are made and the box of what is visible is looked for
FINER = 4  # times the final size, at which the drawing is rendered before it is shrunk
MOST_PX = 4_096
MARGIN = 2  # empty pixels around the longer side
VISIBLE = 8  # alpha from which a pixel counts

_Box = tuple[int, int, int, int]  # left, top, right, bottom


class Rendered(NamedTuple):
    image_HWC: np.ndarray  # uint8 [px, px, 4], straight alpha
    digest: str  # equal for pictures that are equal pixel by pixel
    dhash: int  # 64 bits, few of which differ between pictures that look alike


def render(path: str, px: int) -> Rendered | None:
    """None where nothing is visible or it is no valid SVG."""
    look = _whole(path, LOOK_PX)
    box = None if look is None else _visible(look)
    if box is None:
        return None
    longer = max(box[2] - box[0], box[3] - box[1])
    fine = _whole(path, min(LOOK_PX * FINER * px // longer, MOST_PX))
    digest = hashlib.sha256(repr(look.size).encode() + look.tobytes()).hexdigest()
    return Rendered(_square(fine, px), digest, dhash(look.crop(box)))


def dhash(picture: Image.Image) -> int:
    """One bit for every two neighbours of a row of 9 x 8 gray pixels, on white: which is brighter."""
    white = Image.new("RGBA", picture.size, "white")
    small = Image.alpha_composite(white, picture).convert("L").resize((9, 8), Image.Resampling.BOX)
    gray_HW = np.asarray(small)
    bits = np.packbits(gray_HW[:, 1:] > gray_HW[:, :-1])
    return int.from_bytes(bits.tobytes(), "big")


def _whole(path: str, px: int) -> Image.Image | None:
    """All of the file, `px` at its longer side."""
    try:
        # Without a dpi, resvg refuses any length in points or millimetres.
        png = resvg_py.svg_to_bytes(svg_path=path, width=px, height=px, dpi=96, skip_system_fonts=True)
    except ValueError:
        return None
    return Image.open(io.BytesIO(png)).convert("RGBA")


def _visible(picture: Image.Image) -> _Box | None:
    return picture.getchannel("A").point(lambda alpha: 255 * (alpha >= VISIBLE)).getbbox()


def _square(picture: Image.Image, px: int) -> np.ndarray:
    """What is visible, shrunk into the middle of a square."""
    picture = picture.crop(_visible(picture))
    scale = (px - 2 * MARGIN) / max(picture.size)
    small = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BOX)
    image = Image.new("RGBA", (px, px))
    image.paste(small, ((px - small.width) // 2, (px - small.height) // 2))
    return np.asarray(image)
