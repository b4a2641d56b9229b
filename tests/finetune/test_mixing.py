"""Means of finished finetunes of both kinds, and what has none."""

import shutil

import jax
import numpy as np
import pytest
import tinyclass
import tinycontrast
from tinycontrast import contrast, ended

import mmjax
from mmjax.data.geometry import Preprocess
from mmjax.data.labels import OneClass
from mmjax.finetune import heads
from mmjax.finetune.backbone import Backbone
from mmjax.finetune.mixing import Soup
from mmjax.finetune.tune import Lora, Part
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.sigmoid import Sigmoid

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 40, 24, 3), np.uint8)
LORA = Lora(pattern="kernel$", rank=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tinycontrast.finished(tmp_path_factory.mktemp("runs") / "base")


def test_a_soup_of_one_contrastive_finetune_is_whole_without_its_base(base, tmp_path):
    """Low-rank changes of convolutions, and a part of the other tower."""
    parent = shutil.copytree(base, tmp_path / "parent")
    towers = {"image": Backbone(tune=LORA), "text": Backbone(tune=Part(pattern="head"))}
    tuned = ended(tmp_path / "tuned", contrast(parent, towers=towers))
    before, begun = mmjax.load(tuned), mmjax.load(parent).params
    for name in ("stem", "hidden", "head"):
        assert np.any(before.params["image"][name]["kernel"] != begun["image"][name]["kernel"])
    Soup(of=(str(tuned),)).run(tmp_path / "merged")
    shutil.rmtree(parent)
    with pytest.raises(ValueError, match="init_from='.*parent@10': no run in"):
        mmjax.load(tuned)
    merged = mmjax.load(tmp_path / "merged")
    jax.tree.map(np.testing.assert_array_equal, merged.params, before.params)
    np.testing.assert_allclose(merged.encode_image(IMAGES), before.encode_image(IMAGES), atol=1e-6)


def test_a_soup_of_one_classification_with_convolutions_says_what_it_says(base, tmp_path):
    preprocess = tinycontrast.pretraining().preprocess
    tower = dict(module=tinycontrast.image(), tune=LORA)
    fields = dict(init_from=f"{base}@10", data=tinycontrast.data(), preprocess=preprocess)
    tuned = tinyclass.ended(tmp_path / "tuned", tower=tower, **fields)
    Soup(of=(str(tuned),)).run(tmp_path / "merged")
    before, merged = mmjax.load(tuned), mmjax.load(tmp_path / "merged")
    assert set(before.params) == {"lora", "head"} and set(merged.params) == {"image", "head"}
    np.testing.assert_allclose(merged.predict(IMAGES), before.predict(IMAGES), atol=1e-6)


def test_a_soup_of_contrastive_finetunes_is_the_mean_of_their_towers(base, tmp_path):
    """However each was trained."""
    ways = {"full": {}, "lora": {"image": Backbone(tune=LORA), "text": Backbone()}}
    runs = [ended(tmp_path / name, contrast(base, towers=towers)) for name, towers in ways.items()]
    Soup(of=tuple(map(str, runs)), weights=(0.25, 0.75)).run(tmp_path / "soup")
    one, other, found = (mmjax.load(run).params for run in (*runs, tmp_path / "soup"))
    jax.tree.map(
        lambda x, a, b: np.testing.assert_allclose(x, 0.25 * a + 0.75 * b, rtol=1e-5, atol=1e-6),
        found,
        one,
        other,
    )


OTHERS = {
    "order": (
        dict(task=dict(labels=OneClass(names=("b", "a", "c")))),
        "in tasks.class.names: .* only finetunes of one network, with the same classes and preparation",
    ),
    "head": (
        dict(task=dict(head=heads.Linear(classes=3, normalise=True))),
        "in tasks.class.head.normalise: False -> True;",
    ),
    "head kind": (dict(task=dict(head=heads.Prompted(classes=3))), "in tasks.class.head: Linear -> Prompted"),
    "colours": (dict(preprocess=Preprocess(size=2, mean=(0.1, 0.2, 0.3))), "in preprocess.mean: "),
}


@pytest.mark.parametrize("case", OTHERS)
def test_classifications_that_mean_other_things_have_no_mean(case, tmp_path):
    fields, message = OTHERS[case]
    runs = tinyclass.ended(tmp_path / "one"), tinyclass.ended(tmp_path / "other", **fields)
    with pytest.raises(ValueError, match=f"other differs from .*one {message}"):
        Soup(of=tuple(map(str, runs)), packages=("tinyclass",)).run(tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def test_contrastive_finetunes_that_mean_other_things_have_no_mean(base, tmp_path):
    hidden = {"image": Backbone(module=tinycontrast.image(dropout=0.5)), "text": Backbone()}
    one = ended(tmp_path / "one", contrast(base, towers=hidden))
    other = ended(tmp_path / "other", contrast(base, objective=Sigmoid()))
    with pytest.raises(ValueError, match="other differs from .*one in objective: InfoNCE -> Sigmoid; only"):
        Soup(of=(str(one), str(other))).run(tmp_path / "soup")
    # How each was trained changes nothing of what its weights mean.
    smoothed = ended(tmp_path / "smoothed", contrast(base, objective=InfoNCE(smoothing=0.1)))
    Soup(of=(str(one), str(smoothed))).run(tmp_path / "soup")


def test_a_run_with_a_tower_of_ones_own_is_made_whole_if_its_package_is_named(tmp_path):
    tuned = tinyclass.ended(tmp_path / "tuned")
    with pytest.raises(ValueError, match=r"tinyclass.Linear is not of mmjax; .* pass packages="):
        Soup(of=(str(tuned),)).run(tmp_path / "merged")
    Soup(of=(str(tuned),), packages=("tinyclass",)).run(tmp_path / "merged")
    before, after = (mmjax.load(run, packages=("tinyclass",)) for run in (tuned, tmp_path / "merged"))
    np.testing.assert_array_equal(before.predict(IMAGES), after.predict(IMAGES))


def test_a_pretraining_is_no_finetune(base, tmp_path):
    with pytest.raises(ValueError, match="base is a Pretrain; give the workdir of a finetune"):
        Soup(of=(str(base),)).run(tmp_path / "soup")
