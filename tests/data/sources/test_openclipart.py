"""The clip art, built from a package that is made here, which a script in place of apt fetches."""

import os
import pickle
import subprocess

import numpy as np
import pytest
from cliparts import svg, write

from mmjax.data.labels import OneClass
from mmjax.data.sources import openclipart_build
from mmjax.data.sources.openclipart import FOLDERS, Openclipart
from mmjax.data.sources.openclipart_split import SPLITS

SVG = "usr/share/openclipart/svg"

pytestmark = pytest.mark.skipif(
    subprocess.run("command -v dpkg-deb", shell=True, capture_output=True).returncode != 0,
    reason="not a Debian system",
)


def word(number):
    """A name without digits, for numbers are counters."""
    return "".join("abcdefghij"[int(digit)] for digit in f"{number:03}")


def drawings():
    """One in each of 120 cells of a grid that no two share, so that none look alike, in several folders."""
    files = {}
    for number, folder in enumerate([*FOLDERS[:3], "unsorted"] * 30):
        bits = np.random.default_rng(number).integers(0, 2, (8, 9))
        squares = "".join(f'<rect x="{x}" y="{y}" width="1" height="1"/>' for y, x in np.argwhere(bits))
        body = f'<path d="M0 0h9v8H0z" fill="#eee"/>{squares}'
        data = svg(title=f"thing {number}", keywords=(folder,), body=body, size='viewBox="0 0 9 8"')
        files[f"{folder}/thing_{word(number)}.svg"] = data
    return files


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package, made by Debian's own program, with three drawings that do not count on their own."""
    files = drawings()
    path = f"{FOLDERS[0]}/thing_{word(0)}.svg"
    files["unsorted/copy.svg"] = files[path].replace(b"thing 0", b"another title")
    files["unsorted/own.svg"] = svg(title="own", licence="")
    files["unsorted/blank.svg"] = svg(title="blank", body="")
    tree = tmp_path_factory.mktemp("package") / "tree"
    write(tree / SVG, files)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {openclipart_build.PACKAGE}\nVersion: 1\nArchitecture: all\n"
        "Maintainer: Nobody <nobody@example.org>\nDescription: for a test\n"
    )
    made = tree.parent / "made.deb"
    subprocess.run(["dpkg-deb", "--build", tree, made], check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def data_dir(package, tmp_path_factory):
    """Where the data set was built."""
    folder = tmp_path_factory.mktemp("clip_art")
    (folder / "apt-get").write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls; cp {package} .\n')
    (folder / "apt-get").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        Openclipart(px=16, data_dir=str(folder / "data")).prepare()
        Openclipart(px=16, split="test", data_dir=str(folder / "data")).prepare()
    assert (folder / "calls").read_text() == f"download -q {openclipart_build.PACKAGE}\n"
    return str(folder / "data")


def sources(data_dir, **fields):
    return {split: Openclipart(split=split, px=16, data_dir=data_dir, **fields) for split in SPLITS}


def test_every_drawing_is_in_one_split_and_copies_and_unfree_ones_in_none(data_dir):
    texts = [source[i]["text"] for source in sources(data_dir).values() for i in range(len(source))]
    wanted = [(f"thing {number}", folder) for number, folder in enumerate([*FOLDERS[:3], "unsorted"] * 30)]
    assert sorted(texts) == sorted((title, *([folder] * (folder != "unsorted"))) for title, folder in wanted)


def test_by_folder_an_id_is_a_class_of_all_splits_and_nothing_unsorted_is_left(data_dir):
    found = sources(data_dir, by="folder")
    examples = [source[i] for source in found.values() for i in range(len(source))]
    assert len(examples) == 90
    for example in examples:
        assert FOLDERS[example["id"]] == example["text"][1]
    labels = OneClass().resolved(found["train"])
    assert len(labels.names) == len(FOLDERS) and "signs and symbols" in labels.names
    assert labels.reader(found["test"])(found["test"][0]).argmax() == found["test"][0]["id"]


def test_by_caption_equal_captions_have_equal_ids_and_there_are_no_classes(data_dir):
    found = sources(data_dir)
    caption_of = {}
    for source in found.values():
        for i in range(len(source)):
            caption_of.setdefault(source[i]["id"], set()).add(source[i]["text"][0])
    assert len(caption_of) == 120 and all(len(captions) == 1 for captions in caption_of.values())
    assert found["train"].names == {}


def test_an_example_is_a_picture_with_texts_of_known_kinds(data_dir):
    source = sources(data_dir)["train"]
    example = source[3]
    assert example["image"].shape == (16, 16, 4) and example["image"].dtype == np.uint8
    assert example["kinds"][0] == "title" and len(example["kinds"]) == len(example["text"])
    assert source.texts(3) == {name: value for name, value in example.items() if name != "image"}
    with pytest.raises(ValueError, match="read-only"):
        example["image"][0] = 0


def test_a_pickled_source_holds_no_pictures(data_dir):
    source = sources(data_dir)["train"]
    size = len(source)
    data = pickle.dumps(source)
    assert len(data) < 1_000 and len(pickle.loads(data)) == size


def test_the_licence_lies_beside_the_records(data_dir):
    source = sources(data_dir)["val"]
    assert "public domain" in (source.folder / "LICENCES.txt").read_text()
    assert "public domain" in source.licence


def test_a_damaged_package_and_one_of_something_else_are_named(tmp_path, package):
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    source = Openclipart(data_dir=str(tmp_path))
    (downloads / f"{openclipart_build.PACKAGE}.deb").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"openclipart-svg.deb could not be unpacked .*; delete it"):
        source.prepare()
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    control = "Package: other\nVersion: 1\nArchitecture: all\nMaintainer: N <n@example.org>\nDescription: x\n"
    (tree / "DEBIAN" / "control").write_text(control)
    made = downloads / f"{openclipart_build.PACKAGE}.deb"
    subprocess.run(["dpkg-deb", "--build", tree, made], check=True, capture_output=True)
    with pytest.raises(ValueError, match=f"it has no folder {SVG}"):
        source.prepare()
    assert not source.folder.exists() and not list(source.folder.parent.iterdir())


def test_without_apt_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="apt-get and dpkg-deb are not here; build it on Debian and copy"):
        Openclipart(data_dir=str(tmp_path)).prepare()


def test_wrong_fields_and_a_data_set_that_is_not_built_are_refused(tmp_path):
    with pytest.raises(ValueError, match="split='valid' is not a split of clip art; use one of train, val"):
        Openclipart(split="valid")
    with pytest.raises(ValueError, match="px=8 is out of range; use 16 to 160"):
        Openclipart(px=8)
    with pytest.raises(ValueError, match=r"no clip art in .*; call prepare\(\) first"):
        len(Openclipart(data_dir=str(tmp_path)))
