"""Runs that are killed, stopped and started again end as if nothing had happened, bit for bit."""

import os
import pathlib
import random
import shutil
import signal
import time

import pytest
import small
from commands import SMALL, events, exit_code, here, last_state, learned, lines, start, wait_for_step

from mmjax.checkpoint import saved_steps


def assert_same_run(workdir, other):
    """All that was learned and logged is equal, every step once, and so is the state at the end."""
    steps = [line["step"] for line in lines(workdir) if "train/loss" in line]
    assert sorted(steps) == list(range(1, small.STEPS + 1))
    assert learned(workdir) == learned(other)
    shown = [[event for event in events(run) if event[0].startswith("train/")] for run in (workdir, other)]
    assert sorted(shown[0]) == sorted(shown[1])
    assert last_state(workdir) == last_state(other)


@pytest.fixture
def gate(tmp_path):
    """A file that keeps the run in an evaluation of the small config as long as it is there."""
    gate = tmp_path / "gate"
    gate.touch()
    return gate


def test_three_kills_in_a_row_leave_no_trace(uninterrupted, tmp_path, gate):
    workdir, moments = tmp_path / "killed", random.Random()
    cfg = f"{SMALL}:gate={gate}"  # after the last step, so that none ends before it is killed
    for kill in range(3):
        process = start(cfg, workdir)
        if kill == 1:  # perhaps before the run is where it was
            time.sleep(moments.uniform(0, 2))
        else:
            wait_for_step(process, workdir, 8 * kill + moments.randint(1, 8))
            time.sleep(moments.uniform(0, 0.2))
        process.kill()
        assert exit_code(process) == -signal.SIGKILL
    gate.unlink()
    assert exit_code(start(cfg, workdir)) == 0
    assert_same_run(workdir, uninterrupted)


# test_processes asks with SIGTERM, too.
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
    ids=lambda number: number.name,
)
def test_a_run_asked_to_stop_saves_first_and_goes_on_later(number, uninterrupted, tmp_path):
    workdir = tmp_path / "stopped"
    process = start(SMALL, workdir)
    wait_for_step(process, workdir, 5)
    os.kill(process.pid, number)
    assert exit_code(process) == 85
    stopped_at = saved_steps(workdir / "checkpoints")[-1]
    said = f"stopped by {number.name} and saved at step {stopped_at}; the same command goes on from there"
    assert said in pathlib.Path(f"{workdir}.out").read_text()
    assert [line["step"] for line in lines(workdir) if "train/loss" in line] == list(range(1, stopped_at + 1))
    assert here(SMALL, workdir) == 0
    assert_same_run(workdir, uninterrupted)


def test_a_run_killed_between_checkpoint_and_evaluation_evaluates_later(uninterrupted, tmp_path, gate):
    workdir, cfg = tmp_path / "killed", f"{SMALL}:gate={gate},gate_every=8"
    process = start(cfg, workdir)
    while process.is_alive() and saved_steps(workdir / "checkpoints") != [4, 8]:
        time.sleep(0.01)
    process.kill()
    assert exit_code(process) == -signal.SIGKILL
    assert not any("val/scenes_test/i2t_r1" in line for line in lines(workdir))
    gate.unlink()
    assert here(cfg, workdir) == 0
    assert_same_run(workdir, uninterrupted)


def test_a_finished_run_started_again_only_evaluates(uninterrupted, tmp_path, capsys):
    workdir = shutil.copytree(uninterrupted, tmp_path / "again")
    before = (workdir / "metrics.jsonl").read_text()
    written = {path: path.stat().st_mtime_ns for path in (workdir / "checkpoints").rglob("*")}
    assert here(SMALL, workdir) == 0
    assert (workdir / "metrics.jsonl").read_text() == before
    assert {path: path.stat().st_mtime_ns for path in (workdir / "checkpoints").rglob("*")} == written
    out = capsys.readouterr().out
    assert f"restoring step {small.STEPS}" in out and "results at step" in out
    assert "| loss " not in out
