"""A linear probe as a user runs it: against scikit-learn, and as the finetune that it leaves."""

import json
import shutil

import numpy as np
import own_pictures
import pytest
from commands import ROOT, here, lines
from sklearn.linear_model import LogisticRegression

import mmjax
from mmjax.finetune.classifier import Classifier

CONFIG = ROOT / "configs" / "finetune_probe.py"
PAINTS = ("black", "blue", "red")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("own") / "photos"
    for name, caption, image in own_pictures.things(160):
        paint = caption.split()[1]
        if paint in PAINTS:
            (root / paint).mkdir(parents=True, exist_ok=True)
            image.save(root / paint / name)
    return root


def run(workdir, finished, photos, *more):
    return here(f"{CONFIG}:init_from={finished.workdir}", workdir, f"--data={photos}", *more)


@pytest.fixture(scope="module")
def probed(finished, photos, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("probe") / "run"
    assert run(workdir, finished, photos) == 0
    return workdir


def kept(workdir, split):
    with np.load(workdir / "embeddings" / f"{split}.npz") as found:
        return found["z_NE"], found["label_N"]


def chosen(workdir):
    return json.loads((workdir / "results" / "probe.json").read_text())["metrics"]["probe_l2"]


def test_the_finetune_is_scikit_learns_classifier_of_the_same_embeddings(probed, finished, photos):
    z_NE, label_N = kept(probed, "train")
    theirs = LogisticRegression(C=1 / (chosen(probed) * len(z_NE)), max_iter=2_000, tol=1e-7)
    theirs.fit(z_NE, label_N)
    model = mmjax.load(probed)
    paths = sorted(photos.rglob("*.jpg"))
    test_NE = mmjax.load(finished.workdir).encode_image(paths)
    expected_NC = theirs.predict_proba(test_NE)
    np.testing.assert_allclose(model.predict(paths), expected_NC, atol=5e-3)
    truth_N = np.array([PAINTS.index(path.parent.name) for path in paths])
    ours, other = (
        np.mean(probs_NC.argmax(axis=1) == truth_N) for probs_NC in (model.predict(paths), expected_NC)
    )
    assert abs(ours - other) <= 0.002
    # Chance is a third.
    assert ours > 0.5


def test_what_was_kept_are_the_embeddings_of_the_checkpoint(probed, finished, photos):
    z_NE, _ = kept(probed, "val")
    all_NE = mmjax.load(finished.workdir).encode_image(sorted(photos.rglob("*.jpg")))
    nearest = np.max(z_NE @ all_NE.T, axis=1)
    np.testing.assert_allclose(nearest, 1.0, atol=1e-5)
    assert len(z_NE) + len(kept(probed, "train")[0]) == len(all_NE)


def test_the_report_has_the_sweep_and_the_metrics_of_pictures_that_nothing_was_fitted_on(probed):
    page = (probed / "report.html").read_text()
    assert "Validation accuracy by strength of the regulariser" in page and "Confusion matrix" in page
    (found,) = lines(probed)
    metrics = json.loads((probed / "results" / "probe.json").read_text())["metrics"]
    assert found["val/photos_val/cls_acc1"] == pytest.approx(metrics["probe_val_acc1"])


def test_embeddings_are_computed_once(probed, finished, photos, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    shutil.copytree(probed / "embeddings", workdir / "embeddings")
    shutil.copy(probed / "probe.json", workdir)

    def refuse(*args):
        raise AssertionError("embedded again")

    monkeypatch.setattr(Classifier, "encode", refuse)
    assert run(workdir, finished, photos, "l2=1e-2,1e-3", "evals={}") == 0
    monkeypatch.undo()
    assert chosen(workdir) in (1e-2, 1e-3)
    assert mmjax.load(workdir).names == PAINTS


def test_another_finetune_begins_with_a_probe(probed, photos, tmp_path):
    small = ROOT / "tests" / "runs" / "small_finetune.py"
    assert here(f"{small}:init_from={probed},data={photos}", tmp_path / "run", "steps=1") == 0
    assert "train/loss" in lines(tmp_path / "run")[0]


def test_a_mistake_is_one_line_before_anything_is_embedded(probed, finished, photos, tmp_path, capsys):
    def refusal(workdir, *more):
        assert run(workdir, finished, photos, *more) == 78
        return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")][0]

    assert f"{probed} belongs to a run; use another --workdir" in refusal(probed)
    assert "has no tower for 'text'" in refusal(
        tmp_path / "a", f"init_from={probed}", "modality=text", "evals={}"
    )
    assert "needs 'classes/other', of a model" in refusal(tmp_path / "b", "evals.val.task=other")
    (tmp_path / "c").mkdir()
    shutil.copy(probed / "probe.json", tmp_path / "c")
    message = refusal(tmp_path / "c", "train.side=16")
    assert "has embeddings of another probe (train.side: 256 -> 16); use another --workdir" in message
