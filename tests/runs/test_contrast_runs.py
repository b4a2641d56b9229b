"""A contrastive finetune as a user runs it, on pictures with texts, and a student of a finished run."""

import dataclasses
import re
import shutil

import jax
import numpy as np
import own_pictures
import pytest
from commands import ROOT, here, last_arrays, lines

import mmjax
from mmjax import checkpoint, config
from mmjax.finetune.backbone import Backbone
from mmjax.finetune.tune import Part
from mmjax.objectives.distilled import DistilledInfoNCE
from mmjax.objectives.infonce import InfoNCE
from mmjax.towers.conv import ConvNet
from mmjax.towers.text import BagOfPieces

CONFIG = ROOT / "configs" / "finetune_retrieval.py"
SHORT = ("data.batch_size=16", "checkpoint.every_steps=3", "log_every=1")
STEPS = 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return own_pictures.pairs(tmp_path_factory.mktemp("own") / "photos", 60)


@pytest.fixture(scope="module")
def spec(finished):
    def spec(*more, init_from=finished.workdir):
        return ",".join([f"{CONFIG}:init_from={init_from},size=32,steps={STEPS}", *more])

    return spec


@pytest.fixture(scope="module")
def album(spec, photos, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("contrast") / "album"
    assert here(spec("lock=image"), workdir, f"--data={photos}", *SHORT) == 0
    return workdir


def equal(one, other):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, jax.device_get(one), jax.device_get(other))))


def test_a_locked_tower_stays_and_the_other_learns(album, finished):
    before, after = (mmjax.load(run).params for run in (finished.workdir, album))
    assert equal(before["image"], after["image"])
    assert not equal(before["text"], after["text"])
    steps = [line for line in lines(album) if "train/loss" in line]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert all(line["train/grad_norm/image"] == 0 < line["train/grad_norm/text"] for line in steps)


def test_the_workdir_is_as_one_of_pretraining(album, finished, photos):
    model = mmjax.load(album)
    cfg, before = model.config, mmjax.load(finished.workdir).config
    assert cfg.modules == before.towers and cfg.objective == before.objective
    assert cfg.init_from == f"{finished.workdir}@20"
    # A tower of 16 places reads no longer rows.
    assert cfg.tokenizer == before.tokenizer
    assert (album / "tokenizer.model").read_bytes() == (finished.workdir / "tokenizer.model").read_bytes()
    found = cfg.evals["val"](model.embed).metrics
    assert {f"val/photos_val/{name}": value for name, value in found.items()}.items() <= lines(album)[
        -1
    ].items()
    log = (album / "log.txt").read_text()
    assert len(re.findall(r"(\d+) of \1 parameters are restored as they are", log)) == 3
    assert here("", album, "--eval_only") == 0


def test_it_goes_on_after_its_last_checkpoint_bit_for_bit(album, spec, photos):
    before, written = last_arrays(album), lines(album)[-1]
    shutil.rmtree(album / "checkpoints" / str(STEPS))
    assert here(spec("lock=image"), album, f"--data={photos}", *SHORT) == 0
    assert last_arrays(album) == before and lines(album)[-1] == written


def test_the_end_of_its_line_is_itself_and_so_is_the_mean_of_both(album, tmp_path):
    wise, soup = tmp_path / "wise", tmp_path / "soup"
    assert here(f"{ROOT}/configs/finetune_wise.py:tuned={album},keep=1.0", wise, "alphas=(1.0,)") == 0
    assert here(f"{ROOT}/configs/finetune_soup.py:of={album}+{wise}", soup) == 0
    assert all(equal(mmjax.load(run).params, mmjax.load(album).params) for run in (wise, soup))
    (line,) = lines(wise)
    assert line["step"] == 100
    for way in ("i2t_r1", "t2i_r1"):
        assert line[f"val/photos_val/{way}"] == lines(album)[-1][f"val/photos_val/{way}"]


def test_another_size_and_objective_begin_with_what_fits(spec, album, photos, tmp_path, capsys):
    """From a finetune; a part of the towers is all that is kept, and the rest is read where it came from."""
    cfg = config.override(config.load(spec("loss=sigmoid", init_from=album)).with_data(photos), SHORT)
    cfg = dataclasses.replace(
        cfg,
        towers={"image": Backbone(tune=Part()), "text": Backbone()},
        data=dataclasses.replace(
            cfg.data, geometry=(dataclasses.replace(cfg.data.geometry[0], size=48), *cfg.data.geometry[1:])
        ),
        steps=1,
    )
    cfg.run(tmp_path / "larger")
    log = capsys.readouterr().out
    assert "resized  image/positions [16, 32] -> [36, 32]" in log
    assert "fresh    objective/bias []" in log
    assert set(checkpoint.saved_shapes(tmp_path / "larger" / "checkpoints", 1)) == {"text", "objective"}
    model, before = mmjax.load(tmp_path / "larger"), mmjax.load(album)
    assert model.preprocessing.size == 48 and model.params["image"]["positions"].shape == (36, 32)
    assert equal(model.params["image"]["patch"], before.params["image"]["patch"])
    assert 0 < model.probs(*(model.encode_text(["a red square"]),) * 2) < 1


def test_a_student_is_whole_without_its_teacher(finished, photos, tmp_path):
    teacher = shutil.copytree(finished.workdir, tmp_path / "teacher")
    student = {
        "image": Backbone(module=ConvNet(widths=(8,), depth=0, hidden=8, embed=8)),
        "text": Backbone(module=BagOfPieces(vocab=600, width=8, embed=8)),
    }
    objective = DistilledInfoNCE(infonce=InfoNCE(), teacher_scale=None, embedding=1.0, affinity=1.0)
    plain = config.load(f"{CONFIG}:init_from={teacher},size=32,steps=2")
    cfg = dataclasses.replace(
        plain, init_from=None, teacher=str(teacher), towers=student, objective=objective
    ).with_data(photos)
    config.override(cfg, SHORT).run(tmp_path / "student")
    taught = mmjax.load(teacher)
    shutil.rmtree(teacher)
    model = mmjax.load(tmp_path / "student")
    assert set(model.params) == {"image", "text", "objective"}
    assert model.encode_text(["a red square"]).shape == (1, 8)
    assert model.config.tokenizer == taught.config.tokenizer
    scale = np.exp(taught.params["objective"]["log_scale"])
    np.testing.assert_allclose(model.config.objective.teacher_scale, scale, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["init_from=/nowhere"],
            "init_from='/nowhere': no run in /nowhere: /nowhere/config.json is not there",
        ),
        (["optim.frozen=."], "optim.frozen='.' freezes everything; leave something to train"),
        (["accumulate=3"], "accumulate=3 does not divide data.batch_size=32; use one of its divisors"),
    ],
)
def test_a_mistake_is_one_line_before_the_first_step(arguments, message, spec, tmp_path, capsys):
    assert here(spec(), tmp_path / "run", *arguments) == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()
