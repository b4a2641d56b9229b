"""Rendering many drawings: on all cores, with a line in the log now and then."""

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

log = logging.getLogger("mmjax")

NOTICE_S = 5.0
FEW = 200  # drawings that one process renders faster than others start

Rendered = np.ndarray | None


def on_all_cores(
    render: Callable[..., Rendered], drawings: Sequence, px: int, *, what: str
) -> list[Rendered]:
    """`render(drawing, px)` of every drawing, in order.

    Args:
        render: a function of a module, for other processes import it.
        what: the data set, in a few words.

    Raises:
        ValueError: a rendering process died.
    """
    if len(drawings) < FEW:
        return list(_noticed((render(drawing, px) for drawing in drawings), len(drawings), what))
    # Processes, for resvg keeps the GIL; spawned, for forking after JAX has started its threads can hang.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(_cores(), mp_context=context) as pool:
            arrays = pool.map(render, drawings, [px] * len(drawings), chunksize=32)
            return list(_noticed(arrays, len(drawings), what))
    except BrokenProcessPool:
        raise ValueError(
            f"a process that rendered {what} died: memory may be short, or the script that started it lacks "
            'if __name__ == "__main__":'
        ) from None


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _noticed(arrays: Iterable[Rendered], total: int, what: str) -> Iterator[Rendered]:
    """Passes `arrays` on and logs how far they are."""
    log.info("%s: rendering %d drawings", what, total)
    last = time.monotonic()
    for done, array in enumerate(arrays, start=1):
        if time.monotonic() - last > NOTICE_S:
            last = time.monotonic()
            log.info("%s: rendered %d of %d drawings", what, done, total)
        yield array
