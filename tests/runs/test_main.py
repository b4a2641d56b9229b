"""The command that a user types, from its first line to the report."""

import json
import math
import os
import re
import signal
import subprocess
import sys

import jax
import numpy as np
from commands import DEBUG, ROOT, events, here, lines, python

from mmjax import config, workdir
from mmjax.checkpoint import saved_steps


def test_the_workdir_holds_all_that_is_promised(finished):
    names = {path.name for path in finished.workdir.iterdir()}
    assert names == {
        "checkpoints",
        "config.json",
        "env.json",
        "events",
        "log.txt",
        "metrics.jsonl",
        "report.html",
        "results",
        "tokenizer.model",
    }
    assert saved_steps(finished.workdir / "checkpoints") == [10, 20]
    assert json.loads((finished.workdir / "env.json").read_text())["jax"] == jax.__version__


def test_the_resolved_config_is_printed_and_saved(finished):
    cfg = config.load(str(DEBUG), ["data.train.size=1000"])
    assert config.from_json((finished.workdir / "config.json").read_text()) == cfg
    assert config.show(cfg) in finished.stdout
    assert "data.train.size=1000" in finished.stdout


def test_every_line_of_metrics_is_a_step_and_numbers_by_flat_names(finished):
    for line in lines(finished.workdir):
        assert isinstance(line.pop("step"), int)
        assert all(re.fullmatch(r"[A-Za-z0-9_./-]+", name) for name in line)
        assert all(isinstance(value, float) and math.isfinite(value) for value in line.values())


def test_every_step_and_the_last_evaluation_are_in_the_metrics(finished):
    *trained, evaluated = lines(finished.workdir)
    assert [line["step"] for line in trained] == list(range(1, 21)) and evaluated["step"] == 20
    for line in trained:
        assert line.keys() >= {"train/loss", "train/lr", "train/scale", "perf/step_s", "perf/mem_gb"}
        assert line["perf/examples_per_s"] > 0 and line["perf/mfu"] > 0
        assert 0 <= line["perf/data_frac"] <= 1
    assert {f"val/scenes_test/{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)} <= evaluated.keys()


def test_tensorboard_shows_the_same_numbers(finished):
    expected = [
        (name, line["step"], np.float32(value))
        for line in lines(finished.workdir)
        for name, value in line.items()
        if name != "step"
    ]
    assert sorted(events(finished.workdir)) == sorted(expected)


def test_what_is_printed_says_how_far_it_is_and_ends_in_a_table(finished):
    progress = r"step 20/20 \| loss \d\.\d+ \| \d+ examples/s \| data wait \d+ % \| .* \| left 0:00:0\d\n"
    assert re.search(progress, finished.stdout)
    *_, evaluated = lines(finished.workdir)
    table = finished.stdout.partition("results at step")[2]
    for name, value in evaluated.items():
        if name != "step":
            *_, metric = name.split("/")
            assert re.search(rf"│ {metric} +│ {value:.4f} +│", table)
    assert f"report: {finished.workdir / 'report.html'}" in table
    assert f"mmjax.load('{finished.workdir}')" in table
    assert finished.stderr == ""


def test_the_log_is_kept_with_times(finished):
    log = (finished.workdir / "log.txt").read_text()
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO step 20/20 \| loss ", log, re.MULTILINE)


def test_the_report_is_one_page_that_loads_nothing(finished):
    page = (finished.workdir / "report.html").read_text()
    assert len(page.encode()) < 2_000_000
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//|url\(\s*["']?\s*(https?:)?//""", page)
    assert not re.search(r"<(script|link|iframe)\b|@import", page)
    for part in ("Learning rate", "Scale", "Throughput", "Worst mistakes", "data.train.size=1000"):
        assert part in page
    assert page.count("data:image/") >= 5


def test_a_mistake_is_one_line_where_jax_looks_for_its_devices_itself(tmp_path):
    command = [sys.executable, "-m", "mmjax.main", f"--config={DEBUG}", f"--workdir={tmp_path / 'run'}"]
    env = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run(
        [*command, "tokenizer.vocab=9999"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 78
    (message,) = done.stderr.splitlines()
    assert message.startswith("error: the text tower has ")


def test_ctrl_c_before_the_first_step_is_one_line(tmp_path, monkeypatch, capsys, interruptible):
    monkeypatch.setattr(workdir, "claim", lambda *_: signal.raise_signal(signal.SIGINT))
    assert here(DEBUG, tmp_path / "run") == 130
    assert capsys.readouterr().out.splitlines()[-1].startswith("stopped; the same command goes on ")


def test_help_names_the_flags_and_imports_no_jax():
    done = python(
        "import runpy, sys\n"
        "sys.argv = ['mmjax', '--help']\n"
        "try:\n"
        "    runpy.run_module('mmjax.main', run_name='__main__')\n"
        "except SystemExit:\n"
        "    print('loaded:', {'jax', 'flax', 'numpy'} & set(sys.modules))\n"
    )
    assert all(f"--{flag}" in done.stdout for flag in ("config", "workdir", "coordinator", "process"))
    assert "loaded: set()" in done.stdout
