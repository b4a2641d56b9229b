"""Renders drawings to RGBA, each cropped to the box of what is visible.

Styles draw at very different sizes inside their view box; cropping takes that difference away, which more
than doubles what nearest neighbours across styles find. The crop is rendered from the SVG itself: cutting it
out of a small picture would blur small drawings.
"""

import io
import logging
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import resvg_py
from PIL import Image

from mmjax.data.sources.emoji_join import Drawing

log = logging.getLogger("mmjax")

MARGIN = 2  # empty pixels on every side that the drawing would touch
PROBE_PX = 64  # size at which the box is looked for
VISIBLE = 8  # alpha from which a pixel counts: fainter ones are rounding at the edge of a clip
NOTICE_S = 5.0
FEW = 200  # drawings that one process renders faster than others start

_Square = tuple[float, float, float]  # left, top, side, in the drawing's units


def crop(drawing: Drawing, px: int) -> np.ndarray | None:
    """The drawing as uint8 [px, px, 4], straight alpha; None where nothing is visible or it is no valid SVG.

    What is visible touches the margin on both sides of its longer axis and is centred on the other.
    """
    left, top, width, height = drawing.view
    whole = left, top, max(width, height)
    square = _fitted(drawing, whole, px)
    if square is not None and square[2] < whole[2] / 2:
        square = _fitted(drawing, square, px)  # so small that the first look was coarse
    return None if square is None else _render(drawing, square, px)


def _fitted(drawing: Drawing, square: _Square, px: int) -> _Square | None:
    """The square to render at `px` for what is visible within `square`."""
    probe = _render(drawing, square, PROBE_PX)
    if probe is None or probe[..., 3].max() < VISIBLE:
        return None
    left, top, side = square
    unit = side / PROBE_PX
    box_top, box_height = (number * unit for number in _extent(probe[..., 3].max(axis=1)))
    box_left, box_width = (number * unit for number in _extent(probe[..., 3].max(axis=0)))
    box_side = max(box_height, box_width) * px / (px - 2 * MARGIN)
    return left + box_left - (box_side - box_width) / 2, top + box_top - (box_side - box_height) / 2, box_side


def _extent(alpha: np.ndarray) -> tuple[float, float]:
    """Start and length of what is visible along one axis, in pixels.

    The alpha of the outermost pixel tells how much of it is covered. That is more exact at 64 px than whole
    pixels are at 128 px (standard deviation of the final extent .07 against .30 px of 64), in half the time.
    """
    visible = np.flatnonzero(alpha >= VISIBLE)
    first, last = visible[0], visible[-1]
    if first == last:
        return first, 1.0
    start = first + 1 - alpha[first] / 255
    return start, last + alpha[last] / 255 - start


def _render(drawing: Drawing, square: _Square, px: int) -> np.ndarray | None:
    """The square of the drawing at px x px."""
    left, top, width, height = drawing.view
    start_x, start_y, side = square
    # The inner element clips at the drawing's own view box, as it is shown anywhere else.
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{px}" height="{px}" viewBox="{start_x} {start_y} {side} {side}">'
        f'<svg x="{left}" y="{top}" width="{width}" height="{height}" '
        f'viewBox="{left} {top} {width} {height}">{drawing.body}</svg></svg>'
    )
    try:
        # Without a dpi, resvg refuses any length in points or millimetres.
        png = resvg_py.svg_to_bytes(svg_string=svg, dpi=96, skip_system_fonts=True)
    except ValueError:
        return None
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def crop_all(drawings: Sequence[Drawing], px: int) -> list[np.ndarray | None]:
    """`crop` of every drawing, in order, on all cores.

    Raises:
        ValueError: a rendering process died.
    """
    if len(drawings) < FEW:
        return list(_noticed((crop(drawing, px) for drawing in drawings), len(drawings)))
    # Processes, for resvg keeps the GIL; spawned, for forking after JAX has started its threads can hang.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(_cores(), mp_context=context) as pool:
            arrays = pool.map(crop, drawings, [px] * len(drawings), chunksize=32)
            return list(_noticed(arrays, len(drawings)))
    except BrokenProcessPool:
        raise ValueError(
            "a process that rendered emoji died: memory may be short, or the script that started it lacks "
            'if __name__ == "__main__":'
        ) from None


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _noticed(arrays: Iterable[np.ndarray | None], total: int) -> Iterator[np.ndarray | None]:
    """Passes `arrays` on and logs how far they are."""
    log.info("emoji: rendering %d drawings", total)
    last = time.monotonic()
    for done, array in enumerate(arrays, start=1):
        if time.monotonic() - last > NOTICE_S:
            last = time.monotonic()
            log.info("emoji: rendered %d of %d drawings", done, total)
        yield array
