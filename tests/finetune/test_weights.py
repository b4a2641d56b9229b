"""What each way of finetuning reads of a checkpoint: its parts by their values, and no other.

The checkpoint that is read has been damaged in every array but these.
"""

import dataclasses
import re
import shutil

import jax
import numpy as np
import pytest
import tinycontrast
from test_base import damage
from test_setup import classify, finetuned

import mmjax
from mmjax import sharding
from mmjax.finetune import Backbone, fusion, heads
from mmjax.finetune.adapt import Adapt
from mmjax.finetune.classify import first_model
from mmjax.finetune.context import Prompts
from mmjax.finetune.contrast_setup import set_up
from mmjax.finetune.pruned import Pruned
from mmjax.finetune.tune import Extend, Lora, Part
from mmjax.objectives.distilled import DistilledInfoNCE
from mmjax.optim import Optim
from mmjax.sharding import MeshShape, path_name
from mmjax.towers.prompts import Border

MESH = MeshShape(data=2, fsdp=2, tensor=2)  # not that of the run
HIDDEN = heads.Hidden(hidden=16)
NEW = {
    "image": Backbone(module=tinycontrast.image(), adapt=Adapt(fresh=".")),
    "text": Backbone(module=tinycontrast.text(), adapt=Adapt(fresh=".")),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, averaged weights) of a run that averaged them: these are what a finetune begins with."""
    averaged = Optim(ema=0.9)
    average = tinycontrast.drawn(tinycontrast.pretraining(optim=averaged), 1)
    workdir = tmp_path_factory.mktemp("runs") / "averaged"
    beside = {"ema": average, "opt_state": np.float32(0)}
    return tinycontrast.finished(workdir, beside=beside, optim=averaged), average


def matching(tree, pattern):
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {path_name(path): x for path, x in leaves if re.search(pattern, path_name(path))}


def assert_is_read(found, pattern, whole):
    """`found`, parameters that were read, have the values of `whole` where the pattern names a path."""
    wanted = matching(whole, pattern)
    found = matching(found, ".")
    assert any(path in found for path in wanted)
    for path in (path for path in wanted if path in found):
        np.testing.assert_array_equal(found[path], wanted[path], err_msg=path)


@pytest.fixture
def copy(run, tmp_path):
    """A workdir like that of `run`, to be damaged."""
    return shutil.copytree(run[0], tmp_path / "copy")


def keep_averages(workdir, pattern):
    damage(workdir, pattern, step=tinycontrast.STEP, item="ema")


CLASSIFY = {
    "full": (dict(), "^image/"),
    "a part": (dict(towers={"image": Backbone(tune=Part(pattern="bias$"))}), "^image/"),
    "low rank": (dict(towers={"image": Backbone(tune=Lora(pattern="kernel$", rank=1))}), "^image/"),
    "a pruned tower": (dict(towers={"image": Backbone(tune=Pruned(over_steps=1))}), "^image/"),
    "a border": (dict(towers={"image": Backbone(tune=Extend(extras=(Border(width=1),)))}), "^image/"),
    "a probe": (
        dict(towers={"image": Backbone(tune=Part())}, task=dict(head=heads.Linear(normalise=True))),
        "^image/",
    ),
    "begun anew in part": (
        dict(towers={"image": Backbone(adapt=Adapt(fresh="hidden/kernel"))}),
        "^image/(?!hidden/kernel)",
    ),
    "zero-shot at first, as the line of WiSE-FT": (dict(task=dict(head=heads.Prompted())), "."),
    "prompts": (
        dict(towers={"image": Backbone(tune=Part())}, task=dict(head=Prompts(length=2))),
        ".",
    ),
    "texts": (dict(towers={"text": Backbone()}), "^text/"),
    "two towers": (
        dict(towers={"image": Backbone(tune=Part()), "text": Backbone()}, fusion=fusion.Concat()),
        "^(image|text)/",
    ),
}


def begun(cfg):
    """All parameters that a classification begins with."""
    model = first_model(cfg)
    return model.network.params(model.params, model.fixed)


@pytest.mark.parametrize("case", CLASSIFY)
def test_a_classification_reads_what_it_needs_on_another_mesh(case, run, copy):
    fields, pattern = CLASSIFY[case]
    keep_averages(copy, pattern)
    assert_is_read(begun(classify(copy, mesh=MESH, **fields)), pattern, run[1])


def started(cfg):
    """All parameters that a contrastive finetune begins with."""
    setup = set_up(cfg)
    with jax.set_mesh(setup.mesh):
        fixed = setup.read_fixed()
        state = setup.first_state(sharding.shardings(setup.mesh, setup.state), *fixed)
        return setup.whole(state["params"], *fixed)


CONTRAST = {
    "all": (dict(), "."),
    "a locked tower": (dict(towers={"image": Backbone(tune=Part()), "text": Backbone()}), "."),
    "a new text tower": (dict(towers={"image": Backbone(), "text": NEW["text"]}), "^(image|objective)/"),
}


@pytest.mark.parametrize("case", CONTRAST)
def test_a_contrastive_finetune_reads_what_it_needs_on_another_mesh(case, run, copy):
    fields, pattern = CONTRAST[case]
    keep_averages(copy, pattern)
    assert_is_read(started(tinycontrast.contrast(copy, mesh=MESH, **fields)), pattern, run[1])


def test_of_a_teacher_the_towers_are_read(run, copy):
    keep_averages(copy, "^(image|text)/")
    given = dict(init_from=None, teacher=str(copy), preprocess=tinycontrast.pretraining().preprocess)
    cfg = tinycontrast.contrast(copy, mesh=MESH, towers=NEW, objective=DistilledInfoNCE(teacher_scale=7.0))
    cfg = dataclasses.replace(cfg, **given)
    assert_is_read(set_up(cfg).teacher.read(sharding.make_mesh(MESH)), "^(image|text)/", run[1])


@pytest.fixture(scope="module")
def tuned(run, tmp_path_factory):
    """(workdir, all parameters) of a finetune with two heads."""
    cfg = classify(run[0])
    task = dataclasses.replace(cfg.tasks["class"], head=HIDDEN)
    cfg = dataclasses.replace(cfg, tasks={"class": task, "other": task})
    workdir = finetuned(tmp_path_factory.mktemp("runs") / "tuned", cfg)
    return workdir, mmjax.load(workdir).params


@pytest.mark.parametrize("keep, pattern", [(False, "^image/"), (True, "^(image|head/class)/")])
def test_of_two_heads_the_one_that_is_kept_is_read(keep, pattern, tuned, tmp_path):
    workdir, params = shutil.copytree(tuned[0], tmp_path / "copy"), tuned[1]
    damage(workdir, pattern, step=1)
    found = begun(classify(workdir, mesh=MESH, task=dict(head=HIDDEN, keep_head=keep)))
    assert_is_read(found, pattern, params)


PARTS = {
    "low rank": (dict(towers={"image": Backbone(tune=Lora(pattern="head/kernel$", rank=1))}), "^image/"),
    "a part": (dict(towers={"image": Backbone(tune=Part(pattern="bias$"))}), "^image/.*(?<!bias)$"),
    "prompts": CLASSIFY["prompts"],
}


@pytest.mark.parametrize("case", PARTS)
def test_a_finished_finetune_of_a_part_is_loaded_with_what_it_began_with(case, run, copy, tmp_path):
    fields, pattern = PARTS[case]
    part = finetuned(tmp_path / "part", classify(copy, **fields))
    keep_averages(copy, pattern)
    model = mmjax.load(part)
    assert_is_read(model.network.params(model.params, model.fixed), pattern, run[1])
