"""What each way of finetuning reads of a checkpoint: its parts by their values, and no byte of any other.

Every part of the checkpoint, and the state of training beside it, is megabytes that do not compress.
"""

import dataclasses
import re

import jax
import numpy as np
import pytest
import tinycontrast
from test_base import BIG, bytes_read
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
AROUND = 300_000  # bytes: indices, and what lies next to the arrays that are read; each part is far more
NEW = {
    "image": Backbone(module=tinycontrast.image(), adapt=Adapt(fresh=".")),
    "text": Backbone(module=tinycontrast.text(), adapt=Adapt(fresh=".")),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, averaged weights) of a run that averaged them: these are what a finetune begins with."""
    cfg = dict(
        towers={"image": tinycontrast.image(hidden=16_384), "text": tinycontrast.text(width=2_048, mlp=8)},
        optim=Optim(ema=0.9),
    )
    average = tinycontrast.drawn(tinycontrast.pretraining(**cfg), 1)
    workdir = tmp_path_factory.mktemp("runs") / "large"
    return tinycontrast.finished(workdir, beside={"ema": average, "opt_state": BIG}, **cfg), average


def matching(tree, pattern):
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {path_name(path): x for path, x in leaves if re.search(pattern, path_name(path))}


def assert_is_read(pattern, whole, make):
    """`make`, which gives parameters, reads those of `whole` that the pattern names, and no others."""
    before = bytes_read()
    found = make()
    read = bytes_read() - before
    wanted = matching(whole, pattern)
    size = sum(x.nbytes for x in wanted.values())
    assert 0.8 * size < read < size + AROUND, (size, read)
    found = matching(found, "^(image|text)/")
    for path in (path for path in wanted if path in found):
        np.testing.assert_array_equal(found[path], wanted[path], err_msg=path)


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
def test_a_classification_reads_what_it_needs_on_another_mesh(case, run):
    workdir, average = run
    fields, pattern = CLASSIFY[case]
    cfg = classify(workdir, mesh=MESH, **fields)
    assert_is_read(pattern, average, lambda: begun(cfg))


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
def test_a_contrastive_finetune_reads_what_it_needs_on_another_mesh(case, run):
    workdir, average = run
    fields, pattern = CONTRAST[case]
    assert_is_read(pattern, average, lambda: started(tinycontrast.contrast(workdir, mesh=MESH, **fields)))


def test_of_a_teacher_the_towers_are_read(run):
    workdir, average = run
    given = dict(init_from=None, teacher=str(workdir), preprocess=tinycontrast.pretraining().preprocess)
    cfg = tinycontrast.contrast(workdir, mesh=MESH, towers=NEW, objective=DistilledInfoNCE(teacher_scale=7.0))
    cfg = dataclasses.replace(cfg, **given)
    assert_is_read("^(image|text)/", average, lambda: set_up(cfg).teacher.read(sharding.make_mesh(MESH)))


@pytest.fixture(scope="module")
def tuned(run, tmp_path_factory):
    """(workdir, all parameters) of a finetune with two large heads."""
    cfg = classify(run[0])
    large = dataclasses.replace(cfg.tasks["class"], head=heads.Hidden(hidden=65_536))
    cfg = dataclasses.replace(cfg, tasks={"class": large, "other": large})
    workdir = finetuned(tmp_path_factory.mktemp("runs") / "tuned", cfg)
    return workdir, mmjax.load(workdir).params


@pytest.mark.parametrize("keep, pattern", [(False, "^image/"), (True, "^(image|head/class)/")])
def test_of_two_heads_the_one_that_is_kept_is_read(keep, pattern, tuned):
    workdir, params = tuned
    task = dict(head=heads.Hidden(hidden=65_536), keep_head=keep)
    assert_is_read(pattern, params, lambda: begun(classify(workdir, mesh=MESH, task=task)))


PARTS = {
    "low rank": (dict(towers={"image": Backbone(tune=Lora(pattern="head/kernel$", rank=1))}), "^image/"),
    "a part": (dict(towers={"image": Backbone(tune=Part(pattern="bias$"))}), "^image/.*(?<!bias)$"),
    "prompts": CLASSIFY["prompts"],
}


@pytest.mark.parametrize("case", PARTS)
def test_a_finished_finetune_of_a_part_is_loaded_with_what_it_began_with(case, run, tmp_path):
    workdir, average = run
    fields, pattern = PARTS[case]
    part = finetuned(tmp_path / "part", classify(workdir, **fields))

    def loaded():
        model = mmjax.load(part)
        return model.network.params(model.params, model.fixed)

    assert_is_read(pattern, average, loaded)
