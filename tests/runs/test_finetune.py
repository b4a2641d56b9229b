"""A finetune as a user runs it: from the workdir of a run to probabilities of classes."""

import dataclasses
import re
import shutil
import signal

import jax
import numpy as np
import own_pictures
import pytest
import small_finetune
from commands import (
    PAINTS,
    assert_as_evaluated,
    exit_code,
    here,
    last_arrays,
    learned,
    lines,
    start,
    wait_for_step,
)

import mmjax
from mmjax import checkpoint, config
from mmjax.finetune import base
from mmjax.sharding import path_name

AT_ONCE = "towers.image.frozen_steps=0"


@pytest.fixture(scope="module")
def tuned(spec, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tuned") / "full"
    assert here(spec(), workdir) == 0
    return workdir


def arrays(tree):
    return jax.tree.leaves(jax.device_get(tree))


def test_a_finetune_trains_evaluates_and_reports(tuned):
    found = lines(tuned)
    steps = [line for line in found if "train/loss" in line]
    assert [line["step"] for line in steps] == list(range(1, small_finetune.STEPS + 1))
    assert all(np.isfinite(line["train/loss"]) and 0 <= line["train/class/accuracy"] <= 1 for line in steps)
    # The head alone learns in the first two steps.
    assert [line["train/update_norm/image"] > 0 for line in steps[:4]] == [False, False, True, True]
    evaluated = [line["step"] for line in found if "val/val/cls_acc1" in line]
    assert evaluated == [4, 8, 12]
    assert {"val/val/cls_f1_macro", "val/val/cls_ece"} <= found[-1].keys()
    assert "Confusion matrix" in (tuned / "report.html").read_text()


def test_the_workdir_says_all_that_came_from_the_checkpoint_and_the_data(tuned, finished):
    cfg = config.from_json((tuned / "config.json").read_text())
    assert cfg.init_from == f"{finished.workdir}@20"
    task, (tower,) = cfg.tasks["class"], cfg.towers.values()
    assert task.labels.names == PAINTS and task.head.classes == 4
    before = config.from_json((finished.workdir / "config.json").read_text())
    assert tower.module == before.towers["image"] and cfg.preprocess == before.preprocess
    assert "image: 22 of 22 parameters are restored as they are" in (tuned / "log.txt").read_text()


@pytest.mark.slow
def test_a_kill_leaves_no_trace(tuned, spec, tmp_path):
    workdir = tmp_path / "killed"
    for step in (4, 8):
        process = start(spec(), workdir)
        wait_for_step(process, workdir, step)
        process.kill()
        assert exit_code(process) == -signal.SIGKILL
    assert here(spec(), workdir) == 0
    assert learned(workdir) == learned(tuned)
    assert last_arrays(workdir) == last_arrays(tuned)


@pytest.mark.parametrize(
    "tune", ["lora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bias", "head"))]
)
def test_a_checkpoint_of_a_part_holds_the_part_alone_and_goes_on(tune, tuned, spec, finished, tmp_path):
    workdir = tmp_path / tune
    assert here(spec(f"tune={tune}"), workdir) == 0
    names = set(checkpoint.saved_shapes(workdir / "checkpoints", 12))
    assert names == {"lora": {"lora", "head"}, "bias": {"image", "head"}, "head": {"head"}}[tune]
    size = {run: sum(map(len, last_arrays(run).values())) for run in (workdir, tuned)}
    assert size[workdir] < size[tuned] / 2
    before = last_arrays(workdir)
    shutil.rmtree(workdir / "checkpoints" / "12")
    assert here(spec(f"tune={tune}"), workdir) == 0
    assert last_arrays(workdir) == before
    assert_as_evaluated(workdir)


def test_a_finished_finetune_gives_probabilities_of_its_classes(tuned, photos):
    model = assert_as_evaluated(tuned)
    pictures = sorted(photos.rglob("*.jpg"))[:5]
    probs_NC = model.predict(pictures)
    assert model.names == PAINTS and probs_NC.shape == (5, 4) and probs_NC.dtype == np.float32
    np.testing.assert_allclose(probs_NC.sum(axis=1), 1, rtol=1e-6)
    assert model.classify(pictures) == [PAINTS[i] for i in probs_NC.argmax(axis=1)]
    np.testing.assert_allclose(np.linalg.norm(model.encode(pictures), axis=1), 1, rtol=1e-6)


@pytest.mark.slow
def test_a_full_finetune_needs_the_run_it_began_with_no_more(spec, finished, photos, tmp_path):
    parent = shutil.copytree(finished.workdir, tmp_path / "parent")
    workdirs = {tune: tmp_path / tune for tune in ("full", "head")}
    for tune, workdir in workdirs.items():
        assert here(spec(f"tune={tune}", init_from=parent), workdir, "steps=1", AT_ONCE) == 0
    shutil.rmtree(parent)
    assert mmjax.load(workdirs["full"]).predict(sorted(photos.rglob("*.jpg"))[:1]).shape == (1, 4)
    with pytest.raises(ValueError, match=f"init_from='{parent}@20': .* is not there"):
        mmjax.load(workdirs["head"])


def test_a_head_of_prompts_begins_as_zero_shot_classification(spec, finished, photos, tmp_path):
    """With a rate of nothing the classifier is the parent, asked for the classes' names."""
    workdir = tmp_path / "prompted"
    still = ["steps=1", "optim.lr=1e-30", AT_ONCE, "colour.0.prob=0.0"]
    assert here(spec("head=prompted", "tune=head"), workdir, *still) == 0
    pictures = sorted(photos.rglob("*.jpg"))[:6]
    parent = mmjax.load(finished.workdir)
    expected = parent.probs(parent.encode_image(pictures), parent.encode_text(PAINTS))
    np.testing.assert_allclose(mmjax.load(workdir).predict(pictures), expected, rtol=1e-4, atol=1e-6)


def test_another_resolution_resizes_positions_and_says_so(spec, tmp_path, capsys):
    workdir = tmp_path / "larger"
    cfg = config.load(spec("size=48"))
    there = base.find(cfg.init_from).config.preprocess
    cfg = dataclasses.replace(cfg, preprocess=dataclasses.replace(there, size=48), steps=1)
    cfg = dataclasses.replace(cfg, towers={"image": dataclasses.replace(cfg.towers["image"], frozen_steps=0)})
    cfg.run(workdir)
    assert "resized  image/positions [16, 32] -> [36, 32]" in capsys.readouterr().out
    assert mmjax.load(workdir).network.preprocess.size == 48


@pytest.mark.slow
def test_a_finetune_can_begin_with_a_finetune(spec, tuned, tmp_path):
    workdir = tmp_path / "again"
    assert here(spec(init_from=tuned), workdir, "steps=1", AT_ONCE, "optim.lr=1e-30") == 0
    towers = [mmjax.load(run).params["image"] for run in (workdir, tuned)]
    jax.tree.map(np.testing.assert_array_equal, *towers)


def test_pruning_goes_on_where_it_was_and_ends_with_its_share_of_zeros(spec, tuned, tmp_path):
    """From a finetune, whose head is kept; the checkpoint that it goes on with has fewer zeros."""
    workdir = tmp_path / "pruned"
    assert here(spec("tune=pruned", "keep_head", init_from=tuned), workdir, "checkpoint.keep_last=3") == 0
    before = last_arrays(workdir)
    shutil.rmtree(workdir / "checkpoints" / "12")
    shutil.rmtree(workdir / "checkpoints" / "9")
    model = mmjax.load(workdir, step=6)
    assert 0.1 < np.mean(kernels(model)["image/head/kernel"] == 0) < 0.6
    assert here(spec("tune=pruned", "keep_head", init_from=tuned), workdir, "checkpoint.keep_last=3") == 0
    assert last_arrays(workdir) == before
    for path, kernel in kernels(assert_as_evaluated(workdir)).items():
        for layer in kernel if "/blocks/" in path else [kernel]:
            assert np.sum(layer == 0) == (0 if path.startswith("head/") else round(0.6 * layer.size))


def kernels(model):
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(model.params))
    return {path_name(path): x for path, x in leaves if path_name(path).endswith("kernel")}


@pytest.mark.slow
def test_a_finetune_can_keep_the_head_of_another(spec, tuned, tmp_path):
    workdir = tmp_path / "kept"
    assert here(spec("keep_head", init_from=tuned), workdir, "steps=1", AT_ONCE, "optim.lr=1e-30") == 0
    jax.tree.map(np.testing.assert_array_equal, *(mmjax.load(run).params for run in (workdir, tuned)))


@pytest.mark.slow
def test_an_attentive_probe_runs(spec, tmp_path):
    assert here(spec("head=attentive", "tune=head"), tmp_path / "run", "steps=2") == 0
    assert "train/loss" in lines(tmp_path / "run")[0]


BAD = {
    "no run": (
        [],
        dict(init_from="/nowhere"),
        "init_from='/nowhere': no run in /nowhere: /nowhere/config.json is not",
    ),
    "no step": (
        ["init_from={finished}@15"],
        {},
        r"init_from='.*@15': no weights of step 15 in .*; saved are the steps \[10, 20\]",
    ),
    "another size": (
        ["data.geometry.0.size=40"],
        {},
        "data.geometry ends with pictures of 40x40 pixels, but preprocess.size=32; give both the same size",
    ),
    "head of another size": (
        ["tasks.class.head.classes=7"],
        {},
        "tasks.class.head.classes=7, but there are 4 classes",
    ),
    "tune nothing": (
        ["towers.image.tune.pattern=none"],
        dict(more="tune=lora"),
        "tune.pattern='none' matches none of the parameters",
    ),
    "freeze all": (["optim.frozen=."], {}, "optim.frozen='.' freezes everything; leave something to train"),
    "fresh nothing": (["towers.image.adapt.fresh=nothing"], {}, "adapt.fresh='nothing' names none of image/"),
    "no such modality": (
        [],
        dict(more="towers=audio"),
        r"towers has \['audio'\], which no example has; use image, text, or say in data.fields",
    ),
    "mixed texts": (
        [],
        dict(more="towers=text"),
        r"mixup=0.2 mixes pictures only; use 0 for \['text'\]",
    ),
    "no fusion": (
        [],
        dict(more="towers=image+text,mixup=0.0"),
        r"towers=\['image', 'text'\] need a fusion, such as fusion=fusion.Concat\(\); or leave one tower",
    ),
    "no head to keep": (
        [],
        dict(more="keep_head"),
        "tasks.class.keep_head: .*finished has no such head for the same classes and fusion; begin with",
    ),
    "a task that nothing answers": (
        ["evals.val.task=colour"],
        {},
        r"evals.val \(Classified\) needs 'classes/colour', of a model that has classes/class, image; leave",
    ),
    "batch": (["data.batch_size=12"], {}, "batch_size=12 does not divide over 8 devices"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_line_before_the_first_step(case, spec, finished, tmp_path, capsys):
    arguments, fields, message = BAD[case]
    fields = dict(fields)
    more = [fields.pop("more")] if "more" in fields else []
    arguments = [argument.format(finished=finished.workdir) for argument in arguments]
    assert here(spec(*more, **fields), tmp_path / "run", *arguments) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line
    assert not (tmp_path / "run").exists()


def refusal(capsys, *arguments):
    assert here(*arguments) == 78
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_class_that_only_validates_is_refused(spec, photos, tmp_path, capsys):
    data = tmp_path / "photos"
    for split in ("train", "val"):
        shutil.copytree(photos, data / split)
    shutil.rmtree(data / "train" / "red")
    line = refusal(capsys, spec(data=data), tmp_path / "run")
    assert "1 of 4 classes have no training example: red; add examples, or leave" in line
    assert not (tmp_path / "run").exists()


def test_pictures_without_classes_are_refused(spec, tmp_path, capsys):
    own_pictures.pairs(tmp_path / "pairs", 40)
    line = refusal(capsys, spec(data=tmp_path / "pairs"), tmp_path / "run")
    assert "0 named classes, wanted two or more; give each class a folder" in line


@pytest.mark.parametrize("asks", [("towers=text", "mixup=0.0"), ("head=prompted",)], ids=str)
def test_a_tower_that_the_checkpoint_lacks_is_refused(asks, spec, tuned, tmp_path, capsys):
    line = refusal(capsys, spec(*asks, init_from=tuned), tmp_path / "run")
    assert f"{tuned} has no tower for 'text', only for image; ask for one of these" in line
    assert not (tmp_path / "run").exists()
