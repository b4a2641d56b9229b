"""Every file of configs/ builds, survives JSON and takes a step."""

import math
import pathlib

import pytest
from commands import ROOT, exit_code, lines, start

from mmjax import config

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_a_config_builds_and_survives_json(name):
    cfg = config.load(f"{ROOT}/configs/{name}.py")
    assert config.from_json(config.to_json(cfg)) == cfg
    assert cfg.evals


# test_main runs the debug config to its end.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "debug"])
def test_a_config_takes_a_step(name, tmp_path):
    workdir = tmp_path / "run"
    one_step = f"{ROOT}/tests/runs/one_step.py:name={name}"
    # One device: for eight these towers compile twice as long.
    process = start(one_step, workdir, env={"XLA_FLAGS": ""})
    assert exit_code(process) == 0, pathlib.Path(f"{workdir}.out").read_text()
    (line,) = lines(workdir)
    assert line["step"] == 1 and math.isfinite(line["train/loss"]) and line["train/grad_norm"] > 0
