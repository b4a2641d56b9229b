"""Pictures as the arrays that all else works on, whatever file or object they come in.

| in | out |
|---|---|
| gray, black and white, palette, CMYK, YCbCr, Lab, HSV | RGB |
| with alpha, or a colour that is transparent | RGBA |
| 16 bits a channel, gray | 8 bits, by division by 257, then RGB |
| several frames (GIF, APNG, WebP, TIFF) | the first one |
| EXIF orientation | turned upright |
| 32-bit integers or floats, which do not say what is white | refused |

Letters: H W image, C channels.
"""

import io
import pathlib
import struct
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmjax.data import BadExample

# What a decoder may take for one picture: 400 MB. A file of some kilobytes can ask for much more.
MAX_PIXELS = 100_000_000

_WHITE = 255


def pixels(image: Any, *, side: int | None = None) -> np.ndarray:
    """A path, the bytes of a file, a PIL image or an array as uint8 [H, W, C] with C = 1, 3 or 4.

    Args:
        image: only an array may have one channel.
        side: a file's picture whose shorter side is longer is shrunk to it, JPEG while it is decoded; most of
            the time that large photos take is saved. None keeps its size.

    Raises:
        BadExample: the file is missing, no picture, cut short or too large.
        ValueError: an object that is none of these, or of values of unknown range.
    """
    if isinstance(image, (str, pathlib.Path)):
        return _of_file(image, str(image), side)
    if isinstance(image, bytes):
        return _of_file(io.BytesIO(image), f"{len(image)} bytes", side)
    if isinstance(image, Image.Image):
        return _of_pil(ImageOps.exif_transpose(image))
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or array.dtype != np.uint8 or 0 in array.shape:
        raise ValueError(
            f"a picture is a path, a PIL image or a uint8 array [H, W] or [H, W, 1 | 3 | 4], "
            f"got {array.dtype} {list(array.shape)}"
        )
    return array


def opaque(image_HWC: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """The picture, uint8 with C = 1, 3 or 4, as uint8 [H, W, 3]: alpha blended with `background`."""
    if image_HWC.shape[2] == 4:
        rgb, alpha = image_HWC[..., :3].astype(np.uint16), image_HWC[..., 3:].astype(np.uint16)
        blended = rgb * alpha + np.array(background, np.uint16) * (_WHITE - alpha)
        return ((blended + 127) // 255).astype(np.uint8)
    return np.repeat(image_HWC, 3, axis=2) if image_HWC.shape[2] == 1 else image_HWC


def _of_file(file: Any, where: str, side: int | None) -> np.ndarray:
    try:
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadExample("too_large", where, f"{image.width}x{image.height}, at most {MAX_PIXELS:,}")
            if side is not None:
                # Decoders that can then give a picture of half, a quarter or an eighth, never below this.
                image.draft(None, _shrunk_size(image.size, side))
            image_HWC = _of_pil(ImageOps.exif_transpose(image))
    except BadExample:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadExample("too_large", where, str(error)) from error
    except FileNotFoundError as error:
        raise BadExample("missing", where) from error
    except UnidentifiedImageError as error:
        raise BadExample("undecodable", where, "no format that Pillow knows") from error
    # Pillow's decoders raise these for damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        cut = "truncated" in str(error).lower() or isinstance(error, EOFError)
        raise BadExample("truncated" if cut else "undecodable", where, str(error)) from error
    return image_HWC if side is None else _shrunk(image_HWC, side)


def _shrunk(image_HWC: np.ndarray, side: int) -> np.ndarray:
    height, width, _ = image_HWC.shape
    size = _shrunk_size((width, height), side)
    if size == (width, height):
        return image_HWC
    image = Image.fromarray(image_HWC)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))


def _shrunk_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    shorter = min(size)
    return size if shorter <= side else tuple(max(round(length * side / shorter), 1) for length in size)


def _of_pil(image: Image.Image) -> np.ndarray:
    if image.mode in ("I", "F"):
        raise ValueError(
            f"a PIL image of mode {image.mode} does not say what is white; convert it to L or RGB"
        )
    if image.mode.startswith("I;16"):
        # Pillow's own conversion cuts at 255 what goes up to 65535.
        gray_HW1 = np.round(np.asarray(image)[..., None] / 257).astype(np.uint8)
        return np.repeat(gray_HW1, 3, axis=2)
    transparent = "A" in image.getbands() or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if transparent else "RGB"))
