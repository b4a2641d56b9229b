"""What a run writes as it goes: `metrics.jsonl`, TensorBoard events, `log.txt`, and lines for the person."""

import contextlib
import json
import logging
import math
import pathlib
import sys
import threading
import time

import absl.logging
import jax

log = logging.getLogger("mmjax")


def start_log(path: pathlib.Path | None):
    """Sends the log to the terminal, and with times to `path`; only warnings from processes other than 0."""
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
    log.propagate = False
    log.setLevel(logging.INFO if jax.process_index() == 0 else logging.WARNING)
    # Orbax tells every file it writes.
    absl.logging.set_verbosity(absl.logging.WARNING)
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
    done = threading.Event()

    def beat():
        while not done.wait(every_s):
            log.info("  still %s (%.0f s)", what, time.monotonic() - begin_s)

    thread = threading.Thread(target=beat, daemon=True)
    log.info("%s ...", what)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    log.info("%s: %.1f s", what, time.monotonic() - begin_s)


class Writer:
    """Writes flat metrics, `{name: number}` with names from `[A-Za-z0-9_./-]`, in process 0 only."""

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
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self._file = path.open("a", buffering=1)
        self._events = _tensorboard(workdir, resumed_at)

    def write(self, step: int, metrics: dict[str, float]):
        if self._file is None:
            return
        # JSON knows no NaN and no infinity.
        values = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        if self._events is not None:
            for name, value in metrics.items():
                self._events.add_scalar(name, value, step)

    def close(self):
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()


def read(path: pathlib.Path) -> list[dict]:
    """The lines of a `metrics.jsonl`; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def _tensorboard(workdir: pathlib.Path, resumed_at: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        log.warning("no TensorBoard events: pip install tensorboardX")
        return None
    return SummaryWriter(str(workdir / "events"), purge_step=resumed_at + 1)
