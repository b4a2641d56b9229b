"""The models between a finetune's first state and its last: ends bit for bit, of both kinds."""

import dataclasses

import jax
import numpy as np
import pytest
import tinyclass
import tinycontrast
from PIL import Image

import mmjax
from mmjax import metrics, sharding
from mmjax.data.sources.folder import Folder
from mmjax.data.sources.scenes import Scenes
from mmjax.evals.charts import short
from mmjax.evals.classified import Classified
from mmjax.evals.retrieval import Retrieval
from mmjax.finetune import Backbone, base, heads, zero_shot
from mmjax.finetune.adapt import Adapt
from mmjax.finetune.tune import Full, Lora
from mmjax.finetune.wise import Wise
from mmjax.objectives.sigmoid import Sigmoid
from mmjax.sharding import MeshShape

PAIRS = {
    name: Retrieval(name=name, source=Scenes(split=split, px=32), limit=8)
    for name, split in (("target", "val"), ("shifted", "test"))
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    return tinycontrast.finished(tmp_path_factory.mktemp("runs") / "base")


@pytest.fixture(scope="module")
def album(begun, tmp_path_factory):
    towers = {"image": Backbone(tune=Lora(pattern="kernel$", rank=2)), "text": Backbone()}
    workdir = tmp_path_factory.mktemp("runs") / "album"
    return tinycontrast.ended(workdir, tinycontrast.contrast(begun, towers=towers))


def lines(workdir):
    """Metrics by the per cent of the way."""
    return {line["step"]: line for line in metrics.read(workdir / "metrics.jsonl")}


def test_the_line_of_a_contrastive_finetune_has_its_checkpoint_and_itself_at_its_ends(begun, album, tmp_path):
    """Low-rank changes are merged: what is kept is whole."""
    wise = Wise(tuned=str(album), alphas=(0.0, 1.0), keep=0.0, evals=PAIRS, metric_shifted="cls_acc1")
    with pytest.raises(ValueError, match="evals.shifted finds no 'cls_acc1'; use .* as metric_shifted"):
        wise.run(tmp_path / "first")
    # The corrected command has the same workdir.
    dataclasses.replace(wise, metric_shifted="t2i_r5").run(tmp_path / "first")
    Wise(tuned=str(album), alphas=(0.5,), keep=1.0, evals=PAIRS).run(tmp_path / "last")
    page, by_percent = (tmp_path / "first" / "report.html").read_text(), lines(tmp_path / "first")
    for end, found, percent in ((begun, "first", 0), (album, "last", 100)):
        expected, kept = mmjax.load(end), mmjax.load(tmp_path / found)
        jax.tree.map(np.testing.assert_array_equal, kept.params, expected.params)
        assert {type(tower.tune) for tower in kept.config.towers.values()} == {Full}
        judged = {label: evaluator(expected.embed).metrics for label, evaluator in PAIRS.items()}
        for label, values in judged.items():
            named = {f"val/{label}/{name}": value for name, value in values.items()}
            assert named.items() <= by_percent[percent].items()
        target, shifted = short(judged["target"]["i2t_r1"]), short(judged["shifted"]["t2i_r5"])
        assert f"<title>{percent // 100}: shifted t2i_r5 {shifted}, target i2t_r1 {target}</title>" in page
    assert set(lines(tmp_path / "last")) == {50}


def test_what_an_objective_learned_anew_is_no_end_of_a_line(begun, tmp_path):
    """The checkpoint has no such scale and bias: the towers alone go back to it."""
    tuned = tinycontrast.ended(tmp_path / "tuned", tinycontrast.contrast(begun, objective=Sigmoid()))
    Wise(tuned=str(tuned), alphas=(0.5,), keep=0.0, evals=PAIRS).run(tmp_path / "wise")
    before, last, kept = (mmjax.load(run).params for run in (begun, tuned, tmp_path / "wise"))
    expected = before | {"objective": last["objective"]}
    jax.tree.map(np.testing.assert_array_equal, kept, expected)


def test_a_tower_that_began_anew_is_no_end_of_a_line(begun, tmp_path):
    new = Backbone(module=tinycontrast.text(width=4), adapt=Adapt(fresh="."))
    cfg = tinycontrast.contrast(begun, towers={"image": Backbone(), "text": new})
    tuned = tinycontrast.ended(tmp_path / "tuned", cfg)
    with pytest.raises(ValueError, match="towers.text began anew; the line needs a run whose towers"):
        Wise(tuned=str(tuned), evals=PAIRS).run(tmp_path / "wise")
    assert not (tmp_path / "wise").exists()


@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_a_classification_at_the_ends_is_zero_shot_and_the_finetune_bit_for_bit(begun, keep, tmp_path):
    rng = np.random.default_rng(0)
    for name in tinyclass.NAMES:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(
                tmp_path / "photos" / name / f"{i}.png"
            )
    source = Folder(path=str(tmp_path / "photos"), split="all")
    evals = {name: Classified(name=name, source=source) for name in ("target", "shifted")}
    head = heads.Prompted(classes=3, templates=("a {}",))
    fields = dict(data=tinycontrast.data(), preprocess=tinycontrast.pretraining().preprocess)
    tower = dict(module=tinycontrast.image())
    tuned = tinyclass.ended(
        tmp_path / "tuned", init_from=f"{begun}@10", tower=tower, task=dict(head=head), **fields
    )
    Wise(tuned=str(tuned), alphas=(keep,), keep=keep, evals=evals).run(tmp_path / "wise")
    kept = mmjax.load(tmp_path / "wise").params
    if keep:
        expected = mmjax.load(tuned).params
    else:
        mesh = sharding.make_mesh(MeshShape())
        kernel = zero_shot.kernel(base.find(str(begun)), head, tinyclass.NAMES, mesh)
        logits = {"kernel": kernel, "bias": np.zeros(3, np.float32)}
        expected = {"image": mmjax.load(begun).params["image"], "head": {"class": {"logits": logits}}}
    jax.tree.map(np.testing.assert_array_equal, kept, expected)
