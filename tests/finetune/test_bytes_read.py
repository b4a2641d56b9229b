"""What finetunes read of the checkpoint that they start from, and what loading them reads: in bytes, on
another mesh than the one that wrote it.

The checkpoint has three towers of more than a megabyte each, their average, which is what a finetune starts
from, and an optimizer state.
"""

import dataclasses
import re

import jax
import numpy as np
import pytest
import tinycontrast
from test_base import BIG, bytes_read

import mmjax
from mmjax import sharding
from mmjax.data.fields import Field
from mmjax.data.labels import OneClass
from mmjax.finetune import Backbone, Classify, Contrast, Task, base, heads, mixing
from mmjax.finetune.adapt import Adapt
from mmjax.finetune.classify import first_model
from mmjax.finetune.context import Prompts
from mmjax.finetune.contrast_setup import set_up
from mmjax.finetune.fusion import Concat
from mmjax.finetune.pruned import Pruned
from mmjax.finetune.tune import Extend, Lora, Part
from mmjax.objectives.distilled import DistilledInfoNCE
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.pairs import Pair, Views
from mmjax.optim import Optim
from mmjax.sharding import MeshShape

WIDE = tinycontrast.text(width=1_024, mlp=8)
DATA = dataclasses.replace(tinycontrast.data(), fields={"sound": Field(shape=(12,), dtype="int32")})
THREE = dict(
    towers={"image": tinycontrast.image(hidden=8_192, depth=1), "text": WIDE, "sound": WIDE},
    data=DATA,
    objective=InfoNCE(views=Views(pairs=(Pair(), Pair(second="sound")))),
    optim=Optim(lr=0.01, ema=0.9),
)
# Beside the arrays: what says where they are, a few times, and a share of what lies next to them.
AROUND = 900_000
LABELS = OneClass(names=("a", "b"))
LARGE = heads.Hidden(hidden=40_000)  # more than a megabyte


@pytest.fixture(scope="module")
def average():
    return tinycontrast.drawn(tinycontrast.pretraining(**THREE), 1)


@pytest.fixture(scope="module")
def three(average, tmp_path_factory):
    """The workdir of the run with three towers, written by eight devices along `data`."""
    folder = tmp_path_factory.mktemp("runs") / "three"
    return tinycontrast.finished(folder, beside={"ema": average, "opt_state": BIG}, **THREE)


def classification(workdir, *, head=None, keep_head=False, **fields):
    task = Task(head=head or heads.Linear(), labels=LABELS, keep_head=keep_head)
    given = dict(tasks={"class": task}, data=DATA, steps=4, mesh=MeshShape(data=2, fsdp=2, tensor=2))
    return Classify(init_from=str(workdir), **given | fields)


def retrieval(workdir, *, distils=False, **fields):
    mesh = MeshShape(data=2, fsdp=2, tensor=2)
    run = {"teacher" if distils else "init_from": str(workdir)}
    return Contrast(**run, **dict(data=DATA, steps=4, mesh=mesh, objective=InfoNCE()) | fields)


def begun(cfg):
    """(resolved config, parameters that training begins with): what a run reads before its first step."""
    if isinstance(cfg, Classify):
        model = first_model(cfg)
        return model.config, model.params
    setup = set_up(cfg)
    with jax.set_mesh(setup.mesh):
        layout = sharding.shardings(setup.mesh, setup.state)
        return setup.cfg, setup.first_state(layout, *setup.read_fixed())["params"]


def by_path(tree):
    return {sharding.path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def size(tree, pattern="") -> int:
    """Bytes of the parameters whose path begins as the pattern says; zeros are packed to nothing."""
    return sum(4 * np.count_nonzero(x) for path, x in by_path(tree).items() if re.match(pattern, path))


def assert_read(before: int, wanted: int):
    """Drawn numbers are packed by a few per cent only, so that nothing is left out either."""
    assert 0.9 * wanted < bytes_read() - before < wanted + AROUND < wanted + BIG.nbytes


def image(**fields):
    return {"towers": {"image": Backbone(**fields)}}


CLASSIFICATIONS = {
    "a whole tower": ({}, "image/"),
    "a part by name": (image(tune=Part(pattern="bias$")), "image/"),
    "the head alone": (image(tune=Part()), "image/"),
    "low-rank changes": (image(tune=Lora(pattern="kernel$", rank=1)), "image/"),
    "adapters": (image(tune=Extend()), "image/"),
    "a pruned tower": (image(tune=Pruned(over_steps=3)), "image/"),
    "layers begun anew": (image(adapt=Adapt(fresh="^image/hidden/")), "image/(?!hidden/)"),
    "a tower begun anew": (image(adapt=Adapt(fresh=".")), "nothing"),
    "texts": ({"towers": {"text": Backbone()}}, "text/"),
    "two towers": (
        {"towers": {"image": Backbone(), "text": Backbone()}, "fusion": Concat()},
        "(image|text)/",
    ),
    "a head of prompts": ({"head": heads.Prompted()}, "(image|text|objective)/"),
    "learned prompts": ({"head": Prompts(length=2)}, "(image|text|objective)/"),
}


@pytest.mark.parametrize("mode", CLASSIFICATIONS)
def test_a_classification_reads_what_it_needs_of_the_average(mode, three, average):
    fields, needed = CLASSIFICATIONS[mode]
    before = bytes_read()
    assert_begins_with(average, needed, begun(classification(three, **fields))[1])
    assert_read(before, size(average, needed))


NEW = {name: Backbone(module=THREE["towers"][name], adapt=Adapt(fresh=".")) for name in ("image", "text")}
RETRIEVALS = {
    "all towers": (dict(objective=None), ""),
    "two of three": (dict(towers={"image": Backbone(), "text": Backbone()}), "(image|text|objective)/"),
    "a locked tower": (dict(towers={"image": Backbone(tune=Part()), "text": Backbone()}), "(image|text|obj)"),
    "a tower begun anew": (dict(towers={"image": Backbone(), "text": NEW["text"]}), "(image|objective)/"),
    "a teacher": (dict(distils=True, towers=NEW, objective=DistilledInfoNCE()), "(image|text)/"),
}


@pytest.mark.parametrize("mode", RETRIEVALS)
def test_a_contrastive_finetune_reads_what_it_needs_of_the_average(mode, three, average):
    fields, needed = RETRIEVALS[mode]
    before = bytes_read()
    _, params = begun(retrieval(three, **fields))
    assert_read(before, size(average, needed))
    if "distils" not in fields:
        assert_begins_with(average, needed, params)


def assert_begins_with(average, needed, params):
    held = by_path(average)
    for path, x in by_path(params).items():
        if path in held and re.match(needed, path):
            np.testing.assert_array_equal(x, held[path])


def written(cfg, folder):
    """The parameters of a finetune that ends as it begins, and is written to a folder."""
    cfg, params = begun(cfg)
    tokenizer = base.find(cfg.init_from).tokenizer() if cfg.tokenizer else None
    mixing.write(folder, cfg, tokenizer, cfg.steps, params, {})
    return params


def test_a_kept_head_is_read_and_no_other(three, tmp_path):
    tasks = {name: Task(head=LARGE, labels=LABELS) for name in ("one", "other")}
    held = written(classification(three, tasks=tasks), tmp_path / "two")
    before = bytes_read()
    mmjax.load(tmp_path / "two")
    assert_read(before, size(held))
    kept = {"one": dataclasses.replace(tasks["one"], keep_head=True), "other": Task(labels=LABELS)}
    before = bytes_read()
    _, params = begun(classification(tmp_path / "two", tasks=kept))
    assert_read(before, size(held, "image/|head/one/"))
    assert_begins_with(held, "image/|head/one/", params)


@pytest.mark.parametrize(
    "make, of_base",
    [
        (lambda run: classification(run, **image(tune=Part(pattern="bias$"))), "image/.*(?<!/bias)$"),
        (lambda run: classification(run, **image(tune=Lora(pattern="kernel$", rank=1))), "image/"),
        (
            lambda run: classification(run, head=Prompts(length=2), **image(tune=Part())),
            "(image|text|objective)/",
        ),
        (lambda run: retrieval(run, **RETRIEVALS["a locked tower"][0]), "image/"),
    ],
    ids=["a part by name", "low-rank changes", "learned prompts", "a locked tower"],
)
def test_loading_reads_what_was_trained_and_of_the_first_run_the_rest(
    make, of_base, three, average, tmp_path
):
    held = written(make(three), tmp_path / "run")
    before = bytes_read()
    mmjax.load(tmp_path / "run")
    assert_read(before, size(held) + size(average, of_base))
