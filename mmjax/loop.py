"""The training loop: feeds batches to a step function, and logs, evaluates and checkpoints between steps.

There is one loop. A new way to train is a new `step`.
"""

import collections
import contextlib
import dataclasses
import logging
import math
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mmjax import metrics, sharding
from mmjax.checkpoint import Checkpoints
from mmjax.metrics import Writer

log = logging.getLogger("mmjax")

# Steps that may be under way on the devices at once: enough that they never wait for the host.
_IN_FLIGHT = 2
_LINE_EVERY_S = 5.0
_SILENT_S = 8.0  # at most, while a step runs


class Interrupted(Exception):
    """The run was asked to stop, and its state is saved."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """What `fit` needs besides the state: all of it fixed for the run."""

    step: Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]  # (state, batch) -> (state, metrics)
    mesh: Mesh
    steps: int
    batch_size: int
    log_every: int  # steps between lines of metrics.jsonl
    flops_per_s: tuple[float, float]  # of one step: model FLOPs; of all devices: FLOP/s at their peak
    evaluate: Callable[[int, Any], dict[str, float]]  # (step, state): what the evaluators due after it found
    writer: Writer
    checkpoints: Checkpoints
    meta: Callable[[int], dict[str, Any]]  # what a checkpoint of a step holds besides the state
    of_data: Callable[[int], dict[str, float]] = lambda step: {}  # metrics up to a step, since the last call


def fit(loop: Loop, state, batches: Iterator[Any], *, start: int):
    """Trains from step `start` to `loop.steps`; returns the last state.

    Ctrl-C and SIGTERM save a checkpoint first.

    Raises:
        Interrupted: asked to stop; the message says at which step it was saved.
        ValueError: a checkpoint could not be written.
    """
    if start:
        # What was due after the checkpointed step may have been cut short.
        _evaluate(loop, start, state)
    if start == loop.steps:
        return state
    device_batches = _prefetch(batches, loop.mesh)
    meter = _Meter(loop, start)
    with _StopSignals() as stop, metrics.every(1.0, meter.beat):
        for step in range(start + 1, loop.steps + 1):
            with meter.waiting():
                batch = next(device_batches)
            state, found = loop.step(state, batch)
            meter.add(step, found)
            last, asked = step == loop.steps, stop.asked_at(step)
            if last or asked or loop.checkpoints.due(step):
                # The lines up to a checkpoint are on disk before it is: a resumed run writes all later ones.
                meter.flush()
                loop.checkpoints.save(step, state, loop.meta(step))
            if asked and not last:
                loop.checkpoints.wait()
                raise Interrupted(f"stopped by {asked} and saved at step {step}")
            with meter.paused():
                _evaluate(loop, step, state)
    loop.checkpoints.wait()
    return state


def _evaluate(loop: Loop, step: int, state):
    found = loop.evaluate(step, state)
    if found:
        loop.checkpoints.save_if_best(step, state, found, loop.meta(step))


def _prefetch(batches, mesh):
    """Batches as global arrays, the next one on its way to the devices while a step runs."""
    ready = sharding.put_batch(mesh, next(batches))
    while True:
        coming = sharding.put_batch(mesh, next(batches))
        yield ready
        ready = coming


class _Mark(NamedTuple):
    """Where the loop stood when a step was given to the devices."""

    step: int
    training_s: float  # pauses left out
    data_s: float  # of it, spent waiting for batches


class _Meter:
    """Collects the metrics of steps as the devices finish them, and times the loop.

    Times are those of giving steps to the devices, which never run ahead of them by more than `_IN_FLIGHT`:
    the host learns of several finished steps at one moment, and the time between these would be none.
    """

    def __init__(self, loop: Loop, start: int):
        self._loop = loop
        self._in_flight = collections.deque()
        self._paused_s = self._data_s = 0.0
        self._pausing = False
        self._finished = start
        self._written = self._mark(start)  # of the last line of metrics
        self._line_s = time.monotonic()

    def _mark(self, step) -> _Mark:
        return _Mark(step, time.monotonic() - self._paused_s, self._data_s)

    @contextlib.contextmanager
    def waiting(self):
        begin_s = time.monotonic()
        yield
        self._data_s += time.monotonic() - begin_s

    @contextlib.contextmanager
    def paused(self):
        """Time that does not count as training."""
        begin_s, self._pausing = time.monotonic(), True
        yield
        self._paused_s += time.monotonic() - begin_s
        self._pausing = False

    def beat(self):
        """Says that a long step is still running."""
        if not self._pausing and time.monotonic() - self._line_s > _SILENT_S:
            self._line_s = time.monotonic()
            log.info("  still running step %d of %d", self._finished + 1, self._loop.steps)

    def add(self, step, found):
        self._in_flight.append((self._mark(step), found))
        while len(self._in_flight) > _IN_FLIGHT:
            self._finish(*self._in_flight.popleft())

    def flush(self):
        while self._in_flight:
            self._finish(*self._in_flight.popleft())

    def _finish(self, mark, found):
        """Waits for a step, which others follow on the device, and writes its metrics where they are due.

        Raises:
            FloatingPointError: the loss is not finite; no checkpoint was made of it.
        """
        step, last = mark.step, mark.step == self._loop.steps
        loss = float(found["loss"])
        self._finished = step
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {step}; the last checkpoint is older and sound: "
                "try a lower optim.lr, a longer warm-up or float32"
            )
        write_due = last or step % self._loop.log_every == 0
        line_due = last or time.monotonic() - self._line_s > _LINE_EVERY_S
        if not write_due and not line_due:
            return
        values = {f"train/{name}": float(value) for name, value in jax.device_get(found).items()}
        perf = self._perf(mark)
        if write_due:
            self._loop.writer.write(step, values | perf | self._loop.of_data(step))
            self._written = mark
        if line_due:
            self._line_s = time.monotonic()
            log.info(_line(step, self._loop.steps, values, perf))

    def _perf(self, mark):
        """Speed since the last line of metrics."""
        seconds = max(mark.training_s - self._written.training_s, 1e-9)
        step_s = seconds / (mark.step - self._written.step)
        flops, peak = self._loop.flops_per_s
        return {
            "perf/examples_per_s": self._loop.batch_size / step_s,
            "perf/step_s": step_s,
            "perf/data_frac": min((mark.data_s - self._written.data_s) / seconds, 1.0),
            "perf/mfu": flops / step_s / peak,
            "perf/mem_gb": _memory_gb(),
        }


class _StopSignals:
    """While inside, the first SIGINT or SIGTERM only asks to stop; the second acts as ever.

    With several processes, SIGTERM to any one of them asks all: `jax.distributed` catches it and finds a step
    that none is past. SIGINT acts at once there.
    """

    def __init__(self):
        self._asked = None

    def asked_at(self, step: int) -> str | None:
        """The name of the signal that asks to stop after `step`, the same in every process."""
        if jax.process_count() == 1:
            return self._asked
        return "SIGTERM" if multihost_utils.reached_preemption_sync_point(step) else None

    def __enter__(self):
        signals = [signal.SIGINT, signal.SIGTERM] if jax.process_count() == 1 else []
        self._before = {number: signal.signal(number, self._ask) for number in signals}
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number, frame):
        self._asked = signal.Signals(number).name
        log.info("%s: saving a checkpoint and stopping; once more stops at once", self._asked)
        signal.signal(number, self._before[number])


def _line(step, steps, values, perf) -> str:
    left_s = (steps - step) * perf["perf/step_s"]
    shown = [
        f"step {step}/{steps}",
        f"loss {values['train/loss']:.3f}",
        f"{perf['perf/examples_per_s']:.0f} examples/s",
        f"data wait {100 * perf['perf/data_frac']:.0f} %",
        f"lr {values['train/lr']:.2e}",
        f"gradient {values['train/grad_norm']:.2f}",
        f"mfu {100 * perf['perf/mfu']:.0f} %",
        f"{perf['perf/mem_gb']:.1f} GB",
        f"left {int(left_s // 3600)}:{int(left_s // 60 % 60):02d}:{int(left_s % 60):02d}",
    ]
    return " | ".join(shown)


def _memory_gb() -> float:
    """Peak memory of this process's fullest device; of the process itself where the device keeps no count."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
    if peaks:
        return max(peaks) / 2**30
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
