"""Ways in which pictures become worse, at severities 1 to 5.

After Hendrycks and Dietterich 2019, arXiv:1903.12261, who state them for 224 pixels: what is a length there
is scaled to the side of the picture here. Occlusion is not among theirs: a gray square, as in DeVries and
Taylor 2017, arXiv:1708.04552. Nothing depends on anything but the picture, the severity and `seed`.

Letters: H W C picture.
"""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from mmjax.data.decode import opaque

SEVERITIES = (1, 2, 3, 4, 5)
_SIDE = 224  # pixels that the strengths below are of
_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)  # standard deviation; white is 1
_BLUR = (1.0, 2.0, 3.0, 4.0, 6.0)  # standard deviation, pixels
_CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)  # of it that stays
_JPEG = (25, 18, 15, 10, 7)  # quality
_OCCLUSION = (0.2, 0.3, 0.4, 0.5, 0.6)  # side of the square, of the shorter side
_GRAY = 128


def noise(image_HWC: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """Gaussian noise on each channel of each pixel."""
    added_HWC = np.random.default_rng(seed).normal(size=image_HWC.shape)
    return _bytes(image_HWC + 255 * _NOISE[severity - 1] * added_HWC)


def blur(image_HWC: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """Gaussian blur."""
    radius = _BLUR[severity - 1] * min(image_HWC.shape[:2]) / _SIDE
    return np.asarray(Image.fromarray(image_HWC).filter(ImageFilter.GaussianBlur(radius)))


def contrast(image_HWC: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """Colours nearer to the picture's mean colour."""
    mean_C = image_HWC.mean(axis=(0, 1))
    return _bytes(mean_C + _CONTRAST[severity - 1] * (image_HWC - mean_C))


def jpeg(image_HWC: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """What a JPEG of low quality keeps."""
    file = io.BytesIO()
    Image.fromarray(image_HWC).save(file, "JPEG", quality=_JPEG[severity - 1])
    return np.asarray(Image.open(file))


def occlusion(image_HWC: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """A gray square somewhere."""
    height, width, _ = image_HWC.shape
    side = round(_OCCLUSION[severity - 1] * min(height, width))
    random = np.random.default_rng(seed)
    top, left = random.integers(height - side + 1), random.integers(width - side + 1)
    covered_HWC = image_HWC.copy()
    covered_HWC[top : top + side, left : left + side] = _GRAY
    return covered_HWC


CORRUPTIONS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    corruption.__name__: corruption for corruption in (noise, blur, contrast, jpeg, occlusion)
}


def corrupted(name: str, image_HWC: np.ndarray, *, severity: int, seed: int) -> np.ndarray:
    """The picture, uint8 with C = 3 or 4, as uint8 [H, W, 3]; what is transparent is put on white first."""
    return CORRUPTIONS[name](opaque(image_HWC, (255, 255, 255)), severity, seed)


def _bytes(image_HWC: np.ndarray) -> np.ndarray:
    return np.clip(np.round(image_HWC), 0, 255).astype(np.uint8)
