"""Every file of configs/ builds, survives JSON and takes a step; the largest take it on paper."""

import math
import pathlib

import jax
import jax.numpy as jnp
import pytest
from commands import ROOT, devices, exit_code, lines, start

from mmjax import config
from mmjax.contrastive.step import init_state, make_step

FILES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")
# Evaluators for a run of another config.
EVALUATING = ("evaluate_fashion",)
# These need a finished run: test_finetune takes steps with what they build.
FINETUNES = [name for name in FILES if name.startswith("finetune_") or name == "quantize"]
NAMES = [name for name in FILES if name not in (*EVALUATING, *FINETUNES)]
# Published recipes: neither their towers nor their batches fit a machine of tests.
LARGE = ("clip_b16", "clip_b32", "clip_l14", "clipa_h14", "lit_b16", "siglip2_so400m", "siglip_b16")


def load(name):
    return config.load(f"{ROOT}/configs/{name}.py")


@pytest.mark.parametrize("name", NAMES)
def test_a_config_builds_and_survives_json(name):
    cfg = load(name)
    assert config.from_json(config.to_json(cfg)) == cfg
    assert cfg.evals
    assert (cfg.data.batch_size > 4_096) == (name in LARGE)


@pytest.mark.parametrize("name", EVALUATING)
def test_a_config_of_evaluators_survives_json_and_says_that_it_does_not_train(name, tmp_path):
    cfg = load(name)
    assert config.from_json(config.to_json(cfg)) == cfg
    with pytest.raises(ValueError, match="trains nothing; add --eval_only"):
        cfg.run(tmp_path)
    with pytest.raises(ValueError, match="--data=x needs a config that trains"):
        cfg.with_data("x")


@pytest.mark.parametrize("name", FINETUNES)
def test_a_finetune_builds_and_survives_json(name):
    cfg = load(name)
    assert config.from_json(config.to_json(cfg)) == cfg


# test_main runs the debug config to its end.
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("debug", *LARGE)])
def test_a_config_takes_a_step(name, tmp_path):
    workdir = tmp_path / "run"
    one_step = f"{ROOT}/tests/runs/one_step.py:name={name}"
    # One device: for eight these towers compile twice as long.
    process = start(one_step, workdir, env=devices(1))
    assert exit_code(process) == 0, pathlib.Path(f"{workdir}.out").read_text()
    (line,) = lines(workdir)
    assert line["step"] == 1 and math.isfinite(line["train/loss"]) and line["train/grad_norm"] > 0


@pytest.mark.parametrize("name", LARGE)
def test_a_large_config_traces_a_step_of_its_full_size(name):
    cfg = load(name)
    size, rows = cfg.preprocess.size, cfg.data.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((rows, size, size, 3), jnp.uint8),
        "text": jax.ShapeDtypeStruct((rows, cfg.tokenizer.length), jnp.int32),
        "id": jax.ShapeDtypeStruct((rows,), jnp.int32),
    }
    state = jax.eval_shape(lambda: init_state(cfg, 8))
    after, metrics = jax.eval_shape(make_step(cfg), state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert metrics["loss"].shape == ()
