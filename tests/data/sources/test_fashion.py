"""Fashion-MNIST, on files of the same format that are made here, and apt's client played by a script."""

import gzip
import os
import pickle
import struct
import subprocess

import numpy as np
import pytest

from mmjax.data.sources import fashion
from mmjax.data.sources.fashion import NAMES, Fashion

TRAIN, TEST = 300, 20


def idx(array):
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def contents():
    """Bytes by file name; picture i of a part is filled with i, and of class i modulo 10."""
    files = {}
    for part, n in (("train", TRAIN), ("t10k", TEST)):
        number_N = np.arange(n)
        images_NHW = np.broadcast_to((number_N % 256)[:, None, None], (n, 28, 28)).astype(np.uint8)
        files[f"{part}-images-idx3-ubyte"] = idx(images_NHW)
        files[f"{part}-labels-idx1-ubyte"] = idx((number_N % 10).astype(np.uint8))
    return files


def write(folder, *, zipped=False, **changed):
    folder.mkdir(parents=True)
    for name, data in contents().items():
        data = changed.get(name.replace("-", "_"), data)
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(data) if zipped else data)
    return str(folder)


def programs(folder, monkeypatch, **scripts):
    """Puts shell scripts on PATH in place of programs, and nothing that they would hide."""
    folder.mkdir()
    for name, script in scripts.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("zipped", [False, True])
def test_train_and_val_share_the_authors_training_part_and_test_is_theirs(tmp_path, zipped):
    path = write(tmp_path / "files", zipped=zipped)
    splits = {split: Fashion(split=split, path=path) for split in fashion.SPLITS}
    numbers = {
        split: [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]
        for split, source in splits.items()
    }
    assert sorted(numbers["train"] + numbers["val"]) == sorted(i % 256 for i in range(TRAIN))
    assert 0.02 < len(numbers["val"]) / TRAIN < 0.18
    assert numbers["test"] == list(range(TEST))


def test_an_example_is_a_picture_of_three_equal_channels_with_its_class(tmp_path):
    source = Fashion(split="test", path=write(tmp_path / "files"))
    example = source[13]
    assert example["image"].shape == (28, 28, 3) and example["image"].dtype == np.uint8
    assert (example["image"] == 13).all()
    assert (example["text"], example["id"]) == (("dress",), 3)
    assert source.names == dict(enumerate(NAMES)) and "MIT" in source.licence


def test_inverted_pictures_are_dark_on_white(tmp_path):
    path = write(tmp_path / "files")
    plain, inverted = (Fashion(split="test", path=path, inverted=yes)[13]["image"] for yes in (False, True))
    np.testing.assert_array_equal(inverted.astype(int) + plain, 255)


def test_a_pickled_source_holds_no_pictures(tmp_path):
    source = Fashion(split="train", path=write(tmp_path / "files"))
    before = len(source)
    data = pickle.dumps(source)
    assert len(data) < 1_000 and len(pickle.loads(data)) == before


def package(tmp_path):
    """A package of Debian, made by Debian's own program."""
    tree = tmp_path / "tree"
    write(tree / "usr" / "share" / "datasets" / "fashion-mnist", zipped=True)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {fashion.PACKAGE}\nVersion: 1\nArchitecture: all\n"
        "Maintainer: Nobody <nobody@example.org>\nDescription: for a test\n"
    )
    path = tmp_path / f"{fashion.PACKAGE}_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", tree, path], check=True, capture_output=True)
    return path


needs_dpkg = pytest.mark.skipif(
    subprocess.run("command -v dpkg-deb", shell=True, capture_output=True).returncode != 0,
    reason="not a Debian system",
)


@needs_dpkg
def test_the_package_is_fetched_once_and_another_version_is_taken_with_a_warning(
    tmp_path, monkeypatch, caplog
):
    made = package(tmp_path)
    programs(tmp_path / "bin", monkeypatch, apt_get=f'echo "$@" >> {tmp_path}/calls; cp {made} .')
    for split in ("train", "test"):
        source = Fashion(split=split, data_dir=str(tmp_path / "data"))
        source.prepare()
    assert (tmp_path / "calls").read_text() == f"download -q {fashion.PACKAGE}\n"
    assert len(source) == TEST and caplog.text.count("not the version that mmjax was tried with") == 1
    assert sorted(os.listdir(tmp_path / "data")) == ["downloads", "fashion"]


@needs_dpkg
def test_a_damaged_package_is_named(tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / f"{fashion.PACKAGE}.deb").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=rf"{fashion.PACKAGE}.deb could not be unpacked .*delete it"):
        Fashion(data_dir=str(tmp_path)).prepare()
    assert os.listdir(tmp_path) == ["downloads"]


def test_without_apt_the_error_says_which_files_would_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"apt-get and dpkg-deb are not here; give path= .*train-images-idx3-ubyte"
    ):
        Fashion(data_dir=str(tmp_path)).prepare()


def test_without_a_network_the_error_is_that_of_apt(tmp_path, monkeypatch):
    script = "echo 'W: unsandboxed' >&2; echo 'E: Unable to locate package' >&2; exit 100"
    programs(tmp_path / "bin", monkeypatch, apt_get=script, dpkg_deb="exit 1")
    with pytest.raises(ValueError, match=r"with apt \(E: Unable to locate package\); check the network"):
        Fashion(data_dir=str(tmp_path)).prepare()


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_cut_short_is_named(tmp_path, zipped):
    path = write(tmp_path / "files", zipped=zipped)
    (cut,) = (tmp_path / "files").glob("train-images*")
    cut.write_bytes(cut.read_bytes()[:-3])
    with pytest.raises(ValueError, match="train-images-idx3-ubyte.* is damaged"):
        Fashion(path=path).prepare()
    Fashion(split="test", path=path).prepare()  # which does not need it


@pytest.mark.parametrize(
    "labels", [np.zeros(TRAIN - 1, np.uint8), np.full(TRAIN, 10, np.uint8)], ids=["too few", "no class"]
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels):
    path = write(tmp_path / "files", train_labels_idx1_ubyte=idx(labels))
    with pytest.raises(ValueError, match=f"300 pictures and {len(labels)} labels"):
        Fashion(path=path).prepare()


def test_a_folder_without_the_files_and_an_unknown_split_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no train-images-idx3-ubyte\[.gz\] in"):
        Fashion(path=str(tmp_path)).prepare()
    with pytest.raises(ValueError, match="split='valid' is not a split of Fashion"):
        Fashion(split="valid")
