"""What a run writes as it goes: `metrics.jsonl`, TensorBoard events, `log.txt`, and lines for the person."""

import contextlib
import io
import json
import logging
import math
import pathlib
import platform
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

log = logging.getLogger("mmjax")


def start_log(path: pathlib.Path | None):
    """Sends the log to the terminal, and with times to `path`; only warnings from processes other than 0."""
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
    log.propagate = False
    log.setLevel(logging.INFO if jax.process_index() == 0 else logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    logging.raiseExceptions = False  # where `log.txt` finds no room, the checkpoint will say so
    terminal = logging.StreamHandler(sys.stdout)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(terminal)
    if path is not None:
        file = logging.FileHandler(path)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(file)


@contextlib.contextmanager
def phase(what: str, every_s: float = 8.0):
    """Says when `what` begins, that it goes on, and how long it took: nothing is silent for long."""
    begin_s = time.monotonic()
    log.info("%s ...", what)
    with every(every_s, lambda: log.info("  still %s (%.0f s)", what, time.monotonic() - begin_s)):
        yield
    log.info("%s: %.1f s", what, time.monotonic() - begin_s)


@contextlib.contextmanager
def every(seconds: float, call: Callable[[], None]):
    """While inside, calls `call` every so many seconds in a thread of its own."""
    done = threading.Event()

    def beat():
        while not done.wait(seconds):
            call()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def summed(counts: dict[str, int], names: Sequence[str]) -> dict[str, int]:
    """`counts`, each of one of `names`, over all processes, which must all call it; zeros are left out."""
    mine = np.array([counts.get(name, 0) for name in names])
    every = (
        multihost_utils.process_allgather(mine).reshape(-1, len(names))
        if jax.process_count() > 1
        else mine[None]
    )
    return {name: int(count) for name, count in zip(names, every.sum(axis=0), strict=True) if count}


class Writer:
    """Writes flat metrics, `{name: number}` with names from `[A-Za-z0-9_./-]`, in process 0 only.

    What is written is on disk when `write` returns, for TensorBoard, too: a kill loses nothing.
    """

    def __init__(self, workdir: pathlib.Path, *, resumed_at: int = 0):
        """`resumed_at`: the run is about to write all later lines again, and the evaluation of that step."""
        self._file = self._events = None
        if jax.process_index() != 0:
            return
        path = workdir / "metrics.jsonl"
        lines = [
            line
            for line in read(path)
            if line["step"] < resumed_at or (line["step"] == resumed_at and "train/loss" in line)
        ]
        # Beside the old file, which is whole until the new one is.
        kept = path.with_name(".metrics.jsonl")
        with _naming(path):
            kept.write_text("".join(json.dumps(line) + "\n" for line in lines))
            kept.replace(path)
            self._file = path.open("ab", buffering=0)
            self._events = _events(workdir / "events", resumed_at)

    def write(self, step: int, metrics: dict[str, float]):
        """Raises ValueError where there is no room."""
        if self._file is None:
            return
        # JSON knows no NaN and no infinity.
        values = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        _append(self._file, (json.dumps({"step": step, **values}) + "\n").encode())
        if self._events is not None:
            shown = [{"tag": name, "simple_value": value} for name, value in metrics.items()]
            _append(self._events, _record(step=step, summary={"value": shown}))

    def close(self):
        for file in (self._file, self._events):
            if file is not None:
                file.close()


def read(path: pathlib.Path) -> list[dict]:
    """The lines of a `metrics.jsonl`; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


@contextlib.contextmanager
def _naming(path: pathlib.Path | str):
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{path} could not be written: {error.strerror}; free space, then run the same command again"
        ) from error


def _append(file: io.FileIO, data: bytes):
    # Unbuffered: what a full disk refuses would else be tried again, and complained of again, at exit.
    with _naming(file.name):
        while data:
            data = data[file.write(data) :]


def _events(folder: pathlib.Path, resumed_at: int) -> io.FileIO | None:
    """A new file for TensorBoard, which then forgets later steps of the files before it."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        log.warning("no TensorBoard events: pip install tensorboardX")
        return None
    folder.mkdir(exist_ok=True)
    file = (folder / f"events.out.tfevents.{time.time():.0f}.{platform.node()}").open("ab", buffering=0)
    _append(file, _record(file_version="brain.Event:2"))
    _append(file, _record(step=resumed_at + 1, session_log={"status": "START"}))
    return file


def _record(**event) -> bytes:
    """An event as TensorBoard's files hold it; tensorboardX's own writer keeps two minutes in memory."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    data = Event(wall_time=time.time(), **event).SerializeToString()
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data)))
    )
