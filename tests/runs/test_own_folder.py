"""`--data`: a user's own folder trained on by one command."""

import re
import shutil
import time

import numpy as np
import own_pictures
import pytest
from commands import DEBUG, ROOT, exit_code, here, last_state, learned, lines, start
from PIL import Image

import mmjax

BATCH = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty captioned pictures, one of them damaged, and one picture without a caption."""
    root = tmp_path_factory.mktemp("own") / "holiday"
    own_pictures.pairs(root, 60)
    (root / "0007.jpg").write_bytes((root / "0007.jpg").read_bytes()[:200])
    Image.new("RGB", (4, 4)).save(root / "bare.jpg")
    return root


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory, capfd_module):
    workdir = tmp_path_factory.mktemp("runs") / "mine"
    assert run(workdir, folder) == 0
    return workdir, capfd_module()


@pytest.fixture(scope="module")
def capfd_module(request):
    """What was printed since the last call, for a fixture of this module."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    return lambda: "".join(capture.read_global_capture())


def run(workdir, folder, *arguments):
    return here(DEBUG, workdir, f"--data={folder}", "data.most_replaced=0.1", *arguments)


def test_a_folder_is_trained_on_and_evaluated_in_one_command(trained, folder):
    workdir, printed = trained
    assert f"--data={folder}: Scenes gave way to Folder: geometry is RandomResizedCrop, Flip; " in printed
    assert f"{folder}: pairs; " in printed and "pictures of train (by hash, val_share=0.05)" in printed
    assert printed.count("  0000.jpg: a ") == 1
    assert "left out: 1 x picture without a caption (bare.jpg)" in printed
    *steps, last = lines(workdir)
    assert [line["step"] for line in steps] == list(range(1, 21))
    assert {"val/holiday_train/i2t_r1", "val/holiday_val/i2t_r1"} <= last.keys()
    model = mmjax.load(workdir)
    z_image, z_text = (
        model.encode_image([folder / "0001.jpg"]),
        model.encode_text(["a red square in the fog"]),
    )
    assert z_image.shape == z_text.shape == (1, 16)


def test_a_damaged_picture_is_replaced_counted_and_left_out_of_the_evaluation(trained, folder):
    workdir, printed = trained
    counted = [line.get("data/replaced/truncated", 0) for line in lines(workdir)]
    # 20 steps of 16 in epochs of the training pictures: once an epoch, the last one cut short.
    train = len(own_pictures.captions(60)) - 60 + int(printed.partition("pairs; ")[2].partition(" ")[0])
    assert 20 * BATCH // train <= sum(counted) <= 20 * BATCH // train + 1
    assert f"replaced in training: {folder}/0007.jpg is a picture cut short" in printed
    assert f"holiday_train: 1 of {train} examples are left out: {folder}/0007.jpg" in printed


def test_the_same_command_goes_on_and_ends_alike(trained, folder, tmp_path):
    workdir = shutil.copytree(trained[0], tmp_path / "again")
    shutil.rmtree(workdir / "checkpoints" / "20")
    assert run(workdir, folder) == 0
    assert learned(workdir) == learned(trained[0])
    assert last_state(workdir) == last_state(trained[0])
    replaced = [[line.get("data/replaced/truncated") for line in lines(run)] for run in (workdir, trained[0])]
    assert replaced[0] == replaced[1]


def refusal(capsys, *arguments):
    assert here(DEBUG, *arguments) == 78
    (message,) = capsys.readouterr().err.splitlines()
    return message.removeprefix("error: ")


def test_too_many_damaged_pictures_end_the_run_and_are_named(folder, tmp_path, capsys):
    message = refusal(capsys, tmp_path / "run", f"--data={folder}")
    # A batch that ends one epoch and begins the next may hold it twice.
    assert re.match(r"[12] examples had to be replaced, more than data.most_replaced=0.01 of \d+: ", message)
    assert f"{folder}/0007.jpg is a picture cut short" in message


def test_a_folder_that_changed_is_another_run(trained, folder, tmp_path, capsys):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    changed = shutil.copytree(folder, tmp_path / "holiday")
    (changed / "0000.txt").write_text("something else")
    message = refusal(capsys, workdir, f"--data={changed}", "data.most_replaced=0.1")
    assert f"{workdir} belongs to a run of another config (data.train.path: " in message
    assert "data.train.digest: " in message


def test_data_that_cannot_be_trained_on_is_refused_before_a_directory_is_claimed(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    workdir = tmp_path / "run"
    assert "holds no picture among 0 files" in refusal(capsys, workdir, f"--data={tmp_path / 'empty'}")
    assert not workdir.exists()
    own_pictures.pairs(tmp_path / "few", 5)
    message = refusal(capsys, workdir, f"--data={tmp_path / 'few'}")
    assert (
        message.startswith("batch_size=16, but the training data has ") and "set data.batch_size" in message
    )


@pytest.mark.slow
def test_500_pictures_are_told_apart_within_two_minutes_in_every_form(tmp_path):
    """The time is printed, not asserted: it holds on two cores that do nothing else."""
    found = {}
    cfg = f"{ROOT / 'configs' / 'quickstart.py'}:steps=180"
    for form, write in own_pictures.FORMS.items():
        data, workdir = write(tmp_path / form, 500), tmp_path / f"{form}_run"
        begin_s = time.monotonic()
        env = {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
        assert exit_code(start(cfg, workdir, f"--data={data}", "log_every=1", env=env), 3_600) == 0
        found[form] = lines(workdir)
        (recall,) = (value for name, value in found[form][-1].items() if name.endswith("_train/i2t_r1"))
        print(f"{form}: i2t R@1 {recall:.3f} after {time.monotonic() - begin_s:.0f} s")
        assert recall > 0.9
    first = [of_form[0]["train/loss"] for of_form in found.values()]
    np.testing.assert_array_equal(first, first[0])
