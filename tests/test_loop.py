"""The loop around a step on numbers: what it writes, saves, evaluates and how it stops."""

import itertools
import logging
import os
import signal
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import checkpoint, loop, metrics, sharding
from mmjax.checkpoint import Checkpointing, Checkpoints
from mmjax.sharding import MeshShape

BATCH = 8


@jax.jit
def step(state, batch):
    """Halves the weight and adds the mean of the batch: sensitive to the order of batches, and exact."""
    w = state["params"]["w"] / 2 + jnp.mean(batch["x"])
    return {"params": {"w": w}, "step": state["step"] + 1}, {
        "loss": w,
        "lr": jnp.float32(0.5),
        "grad_norm": jnp.float32(2.0),
    }


def weights(steps):
    """The weight after 0, 1, ... steps: every row of batch k is k."""
    return list(itertools.accumulate(range(1, steps + 1), lambda w, k: w / 2 + k, initial=0.0))


def batches(start=0, values=None):
    for k in itertools.count(start + 1):
        yield {"x": np.full(BATCH, (values or {}).get(k, k), np.float32)}


class Run:
    """A loop in a directory, and what it called."""

    def __init__(self, directory, *, steps=10, log_every=3, every_steps=None, keep_last=10, start=0):
        self.evaluated, self.lines_at_save = [], {}
        self.directory, self.start = directory, start
        saving = Checkpointing(every_steps=every_steps, every_minutes=None, keep_last=keep_last)
        self.checkpoints = Checkpoints(directory / "checkpoints", saving)
        self.writer = metrics.Writer(directory, resumed_at=start)
        self.fields = dict(
            step=step,
            mesh=sharding.make_mesh(MeshShape()),
            steps=steps,
            batch_size=BATCH,
            log_every=log_every,
            flops_per_s=(6e9, 4e9),
            evaluate=self._evaluate,
            writer=self.writer,
            checkpoints=self.checkpoints,
            meta=self._meta,
        )

    def _evaluate(self, step, state):
        self.evaluated.append((step, float(state["params"]["w"])))
        return {}

    def _meta(self, step):
        self.lines_at_save[step] = [line["step"] for line in self.lines()]
        return {"at": step}

    def fit(self, data=None, **fields):
        state = {"params": {"w": jnp.float32(weights(self.start)[-1])}, "step": jnp.int32(self.start)}
        data = batches(self.start) if data is None else data
        try:
            return loop.fit(loop.Loop(**self.fields | fields), state, data, start=self.start)
        finally:
            self.checkpoints.wait()
            self.checkpoints.close()
            self.writer.close()

    def lines(self):
        return metrics.read(self.directory / "metrics.jsonl")

    def saved(self):
        return checkpoint.saved_steps(self.directory / "checkpoints")


def test_metrics_are_those_of_their_own_step_at_every_interval_and_after_the_last(tmp_path):
    run = Run(tmp_path)
    state = run.fit()
    assert float(state["params"]["w"]) == weights(10)[-1]
    assert [(line["step"], line["train/loss"]) for line in run.lines()] == [
        (step, weights(10)[step]) for step in (3, 6, 9, 10)
    ]
    assert all(line["train/lr"] == 0.5 and line["train/grad_norm"] == 2.0 for line in run.lines())


def test_every_step_is_evaluated_once_with_its_own_state(tmp_path):
    run = Run(tmp_path, steps=5)
    run.fit()
    assert run.evaluated == [(step, weights(5)[step]) for step in range(1, 6)]


def test_checkpoints_are_saved_when_due_and_after_the_last_step_with_all_lines_before_them_on_disk(tmp_path):
    run = Run(tmp_path, log_every=1, every_steps=4)
    run.fit()
    assert run.saved() == [4, 8, 10]
    assert run.lines_at_save == {step: list(range(1, step + 1)) for step in (4, 8, 10)}
    shapes = jax.eval_shape(lambda: {"params": {"w": jnp.float32(0)}, "step": jnp.int32(0)})
    saves = Checkpoints(tmp_path / "checkpoints", Checkpointing())
    state, meta = saves.restore(shapes)
    saves.close()
    assert meta == {"at": 10} and float(state["params"]["w"]) == weights(10)[-1]


def test_a_resumed_run_goes_on_as_if_nothing_had_been(tmp_path):
    whole = Run(tmp_path / "whole", log_every=1)
    whole.fit()
    Run(tmp_path / "cut", log_every=1, steps=4).fit()
    resumed = Run(tmp_path / "cut", log_every=1, start=4)
    state = resumed.fit()
    assert float(state["params"]["w"]) == weights(10)[-1]
    losses = [[(line["step"], line["train/loss"]) for line in run.lines()] for run in (whole, resumed)]
    assert losses[0] == losses[1]
    # The evaluation after the checkpointed step may have been cut short.
    assert resumed.evaluated == [(step, weights(10)[step]) for step in range(4, 11)]


def test_a_finished_run_is_evaluated_again_and_reads_no_data(tmp_path):
    run = Run(tmp_path, start=10)
    run.fit(data=iter(()))
    assert run.evaluated == [(10, weights(10)[-1])] and run.lines() == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(tmp_path, value):
    run = Run(tmp_path, log_every=1, every_steps=1)
    with pytest.raises(FloatingPointError, match="at step 6; .* try a lower optim.lr"):
        run.fit(batches(values={6: value}))
    assert run.saved() == [1, 2, 3, 4, 5]
    assert [line["step"] for line in run.lines()] == [1, 2, 3, 4, 5]


def signalled(number, *, at, times=1):
    """Batches, and a signal to this process while batch `at` is being read."""
    for k, batch in enumerate(batches(), start=1):
        for _ in range(times if k == at else 0):
            os.kill(os.getpid(), number)
        yield batch


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_and_stops(tmp_path, name):
    before = signal.getsignal(signal.Signals[name])
    run = Run(tmp_path, log_every=1)
    # The loop reads one batch ahead.
    with pytest.raises(loop.Interrupted, match=f"stopped by {name} and saved at step 5"):
        run.fit(signalled(signal.Signals[name], at=6))
    assert run.saved() == [5] and run.lines_at_save == {5: [1, 2, 3, 4, 5]}
    assert run.evaluated[-1][0] == 4  # left to the resumed run
    assert signal.getsignal(signal.Signals[name]) is before


def test_a_second_signal_acts_at_once(tmp_path, interruptible):
    run = Run(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run.fit(signalled(signal.SIGINT, at=6, times=2))
    assert run.saved() == []


def test_a_signal_during_the_last_step_lets_it_finish(tmp_path):
    run = Run(tmp_path, steps=5)
    run.fit(signalled(signal.SIGINT, at=6))
    assert run.saved() == [5] and run.evaluated[-1][0] == 5


@pytest.fixture
def clock(monkeypatch):
    """A clock of the loop that only a test moves."""
    clock = types.SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: clock.now_s))
    return clock


def timed_fit(run, clock, *, data_s, step_s, evaluate_s, **fields):
    def slow_batches():
        for batch in batches():
            clock.now_s += data_s
            yield batch

    def slow_step(state, batch):
        clock.now_s += step_s
        return step(state, batch)

    def slow_evaluate(step, state):
        clock.now_s += evaluate_s

    run.fit(slow_batches(), step=slow_step, evaluate=slow_evaluate, **fields)


@pytest.mark.parametrize("log_every", [1, 3])
def test_speed_is_that_of_the_interval_and_leaves_evaluation_out(tmp_path, clock, log_every):
    run = Run(tmp_path, log_every=log_every, every_steps=4)
    timed_fit(run, clock, data_s=3.0, step_s=1.0, evaluate_s=100.0)
    # The first interval holds the batch read ahead, too.
    for line in run.lines()[1:]:
        assert line["perf/step_s"] == pytest.approx(4.0)
        assert line["perf/examples_per_s"] == pytest.approx(BATCH / 4)
        assert line["perf/data_frac"] == pytest.approx(3 / 4)
        assert line["perf/mfu"] == pytest.approx(6e9 / 4 / 4e9)


def test_speed_is_positive_and_shares_are_shares(tmp_path):
    run = Run(tmp_path, log_every=1)
    run.fit()
    for line in run.lines():
        assert line["perf/step_s"] > 0 and line["perf/examples_per_s"] > 0 and line["perf/mem_gb"] > 0
        assert 0 <= line["perf/data_frac"] <= 1


def test_a_long_step_says_that_it_runs(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(metrics.log, "propagate", True)
    monkeypatch.setattr(loop, "_SILENT_S", 0.5)
    run = Run(tmp_path, steps=2, log_every=100)

    def slow_step(state, batch):
        time.sleep(1.3)
        return step(state, batch)

    with caplog.at_level(logging.INFO, "mmjax"):
        run.fit(step=slow_step)
    shown = [record.getMessage() for record in caplog.records]
    assert shown[0] == "  still running step 1 of 2" and shown[-1].startswith("step 2/2 ")


def test_a_line_for_the_person_comes_every_five_seconds_and_after_the_last_step(
    tmp_path, clock, caplog, monkeypatch
):
    monkeypatch.setattr(metrics.log, "propagate", True)
    run = Run(tmp_path, log_every=100)
    with caplog.at_level(logging.INFO, "mmjax"):
        timed_fit(run, clock, data_s=0.0, step_s=2.0, evaluate_s=0.0)
    shown = [record.getMessage() for record in caplog.records]
    # A step is known to be done when the second after it is under way.
    assert [text.split()[1] for text in shown] == ["1/10", "4/10", "7/10", "10/10"]
    assert "loss " in shown[0] and "4 examples/s" in shown[0] and "data wait 0 %" in shown[0]
    assert [text.split()[-1] for text in shown] == ["0:00:18", "0:00:12", "0:00:06", "0:00:00"]
