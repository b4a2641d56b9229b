"""Two processes of four devices learn and find what one process of eight does.

That their rows together are the batches of one process, ids and all, is held by data/test_pipeline.py.
"""

import os
import pathlib
import shutil
import signal
import socket
import time

import numpy as np
import pytest
import small
from commands import ROOT, SMALL, devices, exit_code, here, learned, start, wait_for_step

from mmjax.checkpoint import saved_steps


def start_pair(workdir, cfg=SMALL, *arguments):
    """The small run, or another command on it, in two processes, just started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
    arguments = [coordinator, "--processes=2", *arguments]
    return [start(cfg, workdir, *arguments, f"--process={i}", env=devices(4)) for i in range(2)]


def printed(workdir):
    return pathlib.Path(f"{workdir}.out").read_text()


def assert_close(steps, alone):
    """The steps are equal but for rounding: gradients of eight devices are summed in another order.

    The tolerance is a hundred times what one step was seen to differ by; it grows on the way.
    """
    for (step, found), (step_alone, expected) in zip(steps, alone, strict=True):
        assert step == step_alone and found.keys() == expected.keys()
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4, atol=1e-5)


def trained(workdir):
    return [line for line in learned(workdir) if "train/loss" in line[1]]


@pytest.mark.slow
def test_two_processes_train_to_the_end(uninterrupted, tmp_path):
    workdir = tmp_path / "pair"
    assert [exit_code(process) for process in start_pair(workdir)] == [0, 0], printed(workdir)
    assert_close(trained(workdir), trained(uninterrupted))
    assert {path.name for path in workdir.iterdir()} == {path.name for path in uninterrupted.iterdir()}
    assert len(list((workdir / "events").iterdir())) == 1


def test_two_processes_find_what_one_does_in_the_same_weights(uninterrupted, tmp_path):
    workdir = shutil.copytree(uninterrupted, tmp_path / "pair")
    (workdir / "report.html").unlink()
    shutil.rmtree(workdir / "events")
    assert [exit_code(process) for process in start_pair(workdir)] == [0, 0], printed(workdir)
    assert learned(workdir) == learned(uninterrupted)
    assert {path.name for path in workdir.iterdir()} == {path.name for path in uninterrupted.iterdir()}
    assert len(list((workdir / "events").iterdir())) == 1
    assert printed(workdir).count("results at step") == 1


def test_a_pair_learns_what_one_process_does_and_asked_to_stop_saves_one_step_from_which_one_goes_on(
    uninterrupted, tmp_path
):
    workdir, gate = tmp_path / "pair", tmp_path / "gate"
    gate.touch()
    cfg = f"{SMALL}:gate={gate},gate_every=16"  # so that it has not ended before it is asked
    pair = start_pair(workdir, cfg)
    wait_for_step(pair[0], workdir, 15)
    os.kill(pair[1].pid, signal.SIGTERM)
    time.sleep(1)  # until the other process knows
    gate.unlink()
    assert [exit_code(process) for process in pair] == [85, 85], printed(workdir)
    step = saved_steps(workdir / "checkpoints")[-1]
    said = f"stopped by SIGTERM and saved at step {step}; the same command goes on from there"
    assert printed(workdir).count(said) == 2 and step < small.STEPS
    assert len(list((workdir / "events").iterdir())) == 1
    assert_close(trained(workdir), trained(uninterrupted)[:step])
    assert here(cfg, workdir) == 0
    assert_close(trained(workdir), trained(uninterrupted))


def test_probes_of_two_processes_find_what_those_of_one_do(uninterrupted, tmp_path):
    pair, alone = (shutil.copytree(uninterrupted, tmp_path / name) for name in ("pair", "alone"))
    probing = ROOT / "tests" / "runs" / "probing.py"
    processes = start_pair(pair, probing, "--eval_only")
    assert here(probing, alone, "--eval_only") == 0
    assert [exit_code(process) for process in processes] == [0, 0], printed(pair)
    assert "shades: 1 of 37 examples are left out: picture 20 could not be read" in printed(pair)
    ((_, found),), ((_, expected),) = (learned(w / f"eval_{small.STEPS}") for w in (pair, alone))
    assert found.keys() == expected.keys() and {"val/shades/lp_acc1", "val/shades/knn_acc1"} <= found.keys()
    # Sums over eight devices are made in another order.
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4, atol=1e-5)
    assert expected["val/shades/lp_acc1"] > expected["val/shades/lp_acc1_chance"]
