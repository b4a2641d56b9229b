"""Every file of configs/ builds, survives JSON and takes a step; the largest take it on paper."""

import dataclasses
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from commands import ROOT, devices, exit_code, here, lines, start

from configs import lit_b16
from mmjax import config
from mmjax.contrastive import running
from mmjax.contrastive.step import init_state, make_step
from mmjax.finetune import inherited
from mmjax.finetune.base import Base
from mmjax.finetune.contrast_setup import set_up
from mmjax.sharding import path_name

FILES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")
# Evaluators for a run of another config.
EVALUATING = ("evaluate_fashion",)
# These need a finished run.
FINETUNES = [name for name in FILES if name.startswith("finetune_") or name == "quantize"]
# test_finetune_docs runs these as docs/finetune.md has them, but for the last two: test_finetune_fusion and
# test_contrast_runs do.
RUN_ELSEWHERE = [
    "quantize",
    *(f"finetune_{name}" for name in ("folder", "probe", "soup", "wise", "vqa", "retrieval")),
]
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


SMALLER = ["data.geometry.0.size=32"]  # of the runs that these start from
OPTIONS = {
    "finetune_distil": [],
    "finetune_emoji": [],  # at another size
    "finetune_fashion": [*SMALLER, "mixup=0.2"],
    "finetune_matching": SMALLER,
    "finetune_openclipart": SMALLER,
}


def of_run(name, run):
    return f"{ROOT}/tests/runs/one_step.py:name={name},run={run}"


@pytest.mark.parametrize("name", [name for name in FINETUNES if name not in RUN_ELSEWHERE])
def test_a_finetune_takes_a_step(name, uninterrupted, tmp_path):
    assert here(of_run(name, uninterrupted), tmp_path / "run", *OPTIONS[name]) == 0
    (line,) = lines(tmp_path / "run")
    assert line["step"] == 1 and math.isfinite(line["train/loss"]) and line["train/grad_norm"] > 0


def test_a_finetune_slows_the_lower_layers_of_a_tower_that_has_some(
    finished, uninterrupted, tmp_path, capsys
):
    arguments = [*SMALLER, "optim.layer_decay=0.75"]
    without = of_run("finetune_fashion", uninterrupted)
    assert here(without, tmp_path / "refused", *arguments) == 78
    assert "optim.layer_decay=0.75 slows nothing" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()
    assert here(of_run("finetune_fashion", finished.workdir), tmp_path / "run", *arguments) == 0


@pytest.mark.parametrize("name", ["finetune_folder", "finetune_fashion"])
def test_a_finetune_of_classes_mixes_pictures_and_slows_layers_if_asked(name):
    cfg = config.load(f"{ROOT}/configs/{name}.py:mixup=0.2,layer_decay=0.75")
    assert (cfg.mixup, cfg.optim.layer_decay) == (0.2, 0.75)
    assert (load(name).mixup, load(name).optim.layer_decay) == (0.0, None)


def assert_same_shapes(one, other):
    assert jax.tree.map(lambda x: (x.shape, x.dtype), one) == jax.tree.map(
        lambda x: (x.shape, x.dtype), other
    )


@pytest.mark.parametrize("name", [name for name in LARGE if name != "lit_b16"])
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
    assert_same_shapes(after, state)
    assert metrics["loss"].shape == ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnPaper(Base):
    """A finished run of which there are shapes alone."""

    params: Any

    def shapes(self):
        return self.params


def test_lit_traces_a_step_of_its_full_size_on_a_tower_that_is_locked(monkeypatch):
    cfg, debug = load("lit_b16"), load("debug")
    towers = {"image": cfg.towers["image"].module, "text": debug.towers["text"].clone(embed=lit_b16.WIDTH)}
    parent = dataclasses.replace(debug, towers=towers, preprocess=cfg.preprocess)
    params = jax.eval_shape(lambda: init_state(parent, 8))["params"]
    base = OnPaper(workdir=pathlib.Path("vit_b16"), step=1, best=False, config=parent, params=params)
    monkeypatch.setattr(inherited, "find", lambda cfg: inherited.Runs(base=base, teacher=None))
    setup = set_up(cfg)
    assert setup.locked == ("image",)
    with jax.set_mesh(setup.mesh):
        batch = running.batch_shapes(setup.cfg, setup.mesh)
        after, metrics = jax.eval_shape(setup.step(), setup.state, batch, setup.fixed)
    assert_same_shapes(after, setup.state)
    assert metrics["loss"].shape == () and set(setup.state["params"]) == {"image", "text", "objective"}
    assert_same_shapes(setup.state["params"]["image"], params["image"])
    moments = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(setup.state["opt_state"])]
    assert any("/text/" in path for path in moments) and not any("/image/" in path for path in moments)
