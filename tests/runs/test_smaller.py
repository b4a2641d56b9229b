"""A contrastive run with int8 weights, as a user makes and uses it."""

import json
import re

import jax
import numpy as np
import pytest
from commands import ROOT, here, lines

import mmjax
from mmjax import config
from mmjax.finetune import base

QUANTIZE = f"{ROOT}/configs/quantize.py"
TEXTS = ["a red circle", "two green squares left of a star", ""]


def pictures(count=6):
    return np.random.default_rng(0).integers(0, 256, (count, 40, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def small(finished, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("small") / "int8"
    assert here(f"{QUANTIZE}:of={finished.workdir},activations=int8", workdir) == 0
    return workdir


def test_each_metric_is_shown_beside_what_it_was(small, finished):
    (line,), before = lines(small), lines(finished.workdir)[-1]
    assert line["step"] == before["step"]
    evaluated = {name: value for name, value in before.items() if name.startswith("val/")}
    assert len(evaluated) > 5
    for name, value in evaluated.items():
        assert name in line
        assert line[name if name.endswith("_chance") else f"{name}_float32"] == value
    assert "i2t_r1_float32" in (small / "results" / "test.json").read_text()


def test_the_weights_take_a_quarter_of_the_bytes(small, finished):
    found = json.loads((small / "results" / "size.json").read_text())["metrics"]
    before, after = (mmjax.load(run).params for run in (finished.workdir, small))
    assert sum(x.nbytes for x in jax.tree.leaves(before)) / 1e6 == found["megabytes_float32"]
    assert sum(x.nbytes for x in jax.tree.leaves(after)) / 1e6 == found["megabytes"]
    # Towers of 32 channels have many small arrays beside their kernels.
    assert found["megabytes"] < 0.32 * found["megabytes_float32"]


def test_a_loaded_model_embeds_almost_as_before(small, finished):
    before, after = (mmjax.load(run) for run in (finished.workdir, small))
    for method, items in (("encode_image", pictures()), ("encode_text", TEXTS)):
        z_NE, w_NE = getattr(before, method)(items), getattr(after, method)(items)
        assert w_NE.dtype == np.float32 and not np.array_equal(z_NE, w_NE)
        assert np.sum(z_NE * w_NE, axis=1).min() > 0.99
    scales = [model.params["objective"]["log_scale"] for model in (before, after)]
    np.testing.assert_array_equal(*scales)


def test_its_config_holds_that_of_the_run(small, finished):
    cfg = config.from_json((small / "config.json").read_text())
    before = config.from_json((finished.workdir / "config.json").read_text())
    assert cfg.original.towers == before.towers and cfg.evals == before.evals


def test_evaluators_find_the_same_again(small):
    assert here("", f"{small}", "--eval_only") == 0
    (again,), (line,) = lines(small / "eval_20"), lines(small)
    assert again.items() <= line.items()


@pytest.mark.parametrize(
    "cfg, message",
    [
        ("{quantize}:of={small}", "of='.*' has int8 weights already; give the run that it was made of"),
        ("{quantize}:of={finished},keep=nothing", "keep='nothing' matches none of the parameters: image/"),
        (
            "{root}/configs/finetune_wise.py:tuned={small}",
            "int8 is a Quantized; give the workdir of a finetune",
        ),
    ],
)
def test_what_int8_weights_are_not_for_is_refused(cfg, message, small, finished, tmp_path, capsys):
    names = dict(quantize=QUANTIZE, root=ROOT, small=small, finished=finished.workdir)
    assert here(cfg.format(**names), tmp_path / "run") == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line
    assert not (tmp_path / "run").exists()


def test_no_finetune_begins_with_int8_weights(small):
    with pytest.raises(
        ValueError, match="init_from='.*': its weights are int8, .* give the run it was made of"
    ):
        base.find(str(small))


def test_a_directory_of_another_run_is_left_alone(small, finished, capsys):
    assert here(f"{QUANTIZE}:of={finished.workdir}", small) == 78
    assert "belongs to a run; use another --workdir" in capsys.readouterr().err
