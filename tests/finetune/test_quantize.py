"""A finished run with int8 weights, made and used."""

import json
import shutil

import jax
import numpy as np
import pytest
import tinyclass
import tinycontrast

import mmjax
from mmjax import config, metrics
from mmjax.data.sources.scenes import Scenes
from mmjax.evals.classified import Classified
from mmjax.evals.retrieval import Retrieval
from mmjax.finetune import Backbone, base, int8, mixing
from mmjax.finetune.quantize import Quantize
from mmjax.finetune.tune import Lora
from mmjax.serve.evaluate import evaluate

EVALS = {"test": Retrieval(name="scenes", source=Scenes(split="test", px=32), limit=24)}
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 40, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tinycontrast.finished(tmp_path_factory.mktemp("finished") / "run", evals=EVALS)


@pytest.fixture(scope="module")
def small(finished, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("small") / "int8"
    Quantize(of=str(finished), activations="int8").run(workdir)
    return workdir


def line_of(workdir):
    (line,) = metrics.read(workdir / "metrics.jsonl")
    return line


def test_each_metric_is_shown_beside_what_it_was(small, finished):
    before = EVALS["test"](mmjax.load(finished).embed).metrics
    after = EVALS["test"](mmjax.load(small).embed).metrics
    expected = {f"val/scenes/{name}": value for name, value in after.items()}
    expected |= {f"val/scenes/{n}_float32": x for n, x in before.items() if not n.endswith("_chance")}
    assert line_of(small) == {"step": tinycontrast.STEP} | expected
    assert "i2t_r1_float32" in (small / "report.html").read_text()


def test_the_bytes_before_and_after_are_told(small, finished):
    told = json.loads((small / "results" / "size.json").read_text())["metrics"]
    for name, run in (("megabytes_float32", finished), ("megabytes", small)):
        assert told[name] == sum(x.nbytes for x in jax.tree.leaves(mmjax.load(run).params)) / 1e6
    assert told["megabytes"] < told["megabytes_float32"] / 2


def test_a_loaded_model_has_int8_weights_and_embeds_almost_as_before(small, finished):
    before, after = (mmjax.load(run) for run in (finished, small))
    assert after.params["image"]["hidden"]["kernel"]["int8"].dtype == np.int8
    assert after.params["objective"] == before.params["objective"]
    z_NE, w_NE = (model.encode_image(IMAGES) for model in (before, after))
    assert w_NE.dtype == np.float32 and not np.array_equal(z_NE, w_NE)
    assert np.sum(z_NE * w_NE, axis=1).min() > 0.99


def test_its_config_holds_that_of_the_run(small, finished):
    cfg, before = (config.from_json((run / "config.json").read_text()) for run in (small, finished))
    assert cfg.original.towers == before.towers and cfg.evals == before.evals


def test_evaluators_find_the_same_again(small):
    assert line_of(evaluate(str(small))).items() <= line_of(small).items()


def test_what_is_named_stays_float32(finished, tmp_path):
    Quantize(of=str(finished), keep="^text/", evals={}).run(tmp_path / "run")
    kept, before = (mmjax.load(run).params for run in (tmp_path / "run", finished))
    jax.tree.map(np.testing.assert_array_equal, kept["text"], before["text"])
    assert kept["image"]["hidden"]["kernel"]["int8"].dtype == np.int8


def test_low_rank_changes_of_a_contrastive_finetune_are_merged_first(finished, tmp_path):
    """The int8 run needs no other one."""
    towers = {"image": Backbone(tune=Lora(pattern="kernel$", rank=2)), "text": Backbone()}
    parent = shutil.copytree(finished, tmp_path / "parent")
    tuned = tinycontrast.ended(tmp_path / "tuned", tinycontrast.contrast(parent, towers=towers))
    whole = mmjax.load(tuned).params
    Quantize(of=str(tuned)).run(tmp_path / "int8")
    shutil.rmtree(parent)
    found = mmjax.load(tmp_path / "int8").params
    jax.tree.map(np.testing.assert_array_equal, found, jax.jit(int8.quantised)(whole))


def test_a_tower_of_ones_own_is_quantised_if_its_package_is_named(tmp_path):
    tuned = tinyclass.ended(tmp_path / "tuned")
    with pytest.raises(ValueError, match=r"tinyclass.Linear is not of mmjax; .* pass packages="):
        Quantize(of=str(tuned)).run(tmp_path / "int8")
    Quantize(of=str(tuned), packages=("tinyclass",)).run(tmp_path / "int8")
    found = mmjax.load(tmp_path / "int8", packages=("tinyclass",)).params
    assert found["image"]["head"]["kernel"]["int8"].dtype == np.int8


def test_what_int8_weights_are_not_for_is_refused(small, finished, tmp_path):
    with pytest.raises(ValueError, match="has int8 weights already; give the run that it was made of"):
        Quantize(of=str(small)).run(tmp_path / "run")
    with pytest.raises(ValueError, match="init_from='.*': its weights are int8, .* give the run it was made"):
        base.find(str(small))
    with pytest.raises(ValueError, match="int8 is a Quantized; give the workdir of a finetune"):
        mixing.opened(str(small))


def test_mistakes_are_told_before_anything_is_written(small, finished, tmp_path):
    with pytest.raises(ValueError, match="keep='nothing' matches none of the parameters: image/"):
        Quantize(of=str(finished), keep="nothing").run(tmp_path / "run")
    evals = {"classes": Classified(name="scenes", source=Scenes(split="test"))}
    with pytest.raises(ValueError, match=r"evals.classes \(Classified\) needs 'classes/class', of a model"):
        Quantize(of=str(finished), evals=evals).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"keep='\(' is no regular expression"):
        Quantize(of=str(finished), keep="(")
    with pytest.raises(ValueError, match="belongs to a run; use another --workdir"):
        Quantize(of=str(finished)).run(small)
