"""Folders of pictures as a source: splits, what is said of them, and their pictures."""

import dataclasses
import logging
import pickle

import numpy as np
import pytest
from folders import picture, pictures

from mmjax.data import BadExample
from mmjax.data.sources.folder import Folder


def split_paths(root, split, **fields):
    folder = Folder(path=str(root), split=split, **fields)
    return [entry.picture for entry in folder._entries]


def test_a_share_validates_and_stays_where_it_is_when_more_pictures_come(tmp_path):
    for number in range(400):
        picture(tmp_path / f"{number}.png", size=(1, 1))
        (tmp_path / f"{number}.txt").write_text(f"number {number}")
    parts = [split_paths(tmp_path, split, val_share=0.2) for split in ("train", "val")]
    assert sorted(parts[0] + parts[1]) == split_paths(tmp_path, "all")
    # Four standard deviations of a binomial.
    assert abs(len(parts[1]) - 80) < 4 * np.sqrt(400 * 0.2 * 0.8)
    picture(tmp_path / "more.png")
    (tmp_path / "more.txt").write_text("more")
    moved = [set(split_paths(tmp_path, split, val_share=0.2)) - {"more.png"} for split in ("train", "val")]
    assert moved == [set(part) for part in parts]
    # A larger share holds the smaller one.
    assert set(parts[1]) < set(split_paths(tmp_path, "val", val_share=0.4))


@pytest.mark.parametrize("names", [("train", "val"), ("training", "test")])
def test_folders_that_are_splits_are_taken_as_such(tmp_path, names):
    pictures(tmp_path, *(f"{name}/{kind}/1.png" for name in names for kind in ("cat", "dog")))
    pictures(tmp_path, f"{names[0]}/emu/2.png")
    train, val = (Folder(path=str(tmp_path), split=split) for split in ("train", "val"))
    assert train.names == val.names == {0: "cat", 1: "dog", 2: "emu"}
    assert {example["id"] for example in map(train.texts, range(len(train)))} == {0, 1, 2}
    assert [val.texts(index)["text"] for index in range(len(val))] == [("cat",), ("dog",)]
    assert split_paths(tmp_path, "val") == [f"{names[1]}/cat/1.png", f"{names[1]}/dog/1.png"]


def test_what_is_found_is_said_once_with_three_examples(tmp_path, caplog):
    pictures(tmp_path, "a.png", "b.png", "c.png", "d.png", "bare.png")
    for name in "abcd":
        (tmp_path / f"{name}.txt").write_text(f"picture {name}\nletter {name}")
    (tmp_path / "lost.txt").write_text("no picture")
    folder = Folder(path=str(tmp_path), split="all")
    with caplog.at_level(logging.INFO, "mmjax"):
        folder.prepare()
        folder.prepare()
    assert caplog.messages == [
        f"{tmp_path}: pairs; 4 pictures of all (by hash, val_share=0.05)",
        "  8 texts, 4 different ids",
        "  a.png: picture a | letter a",
        "  b.png: picture b | letter b",
        "  d.png: picture d | letter d",
        "  left out: 1 x picture without a caption (bare.png)",
        "  left out: 1 x caption without a picture (lost.txt)",
    ]


def test_a_table_of_labels_that_names_an_unknown_picture_is_refused_where_that_is_asked_for(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "labels.csv").write_text("file,label\na.png,red\nb.png,round\ngone.png,red\n")
    folder = Folder(path=str(tmp_path), split="all", picture="file", captions=("label",))
    folder.prepare()
    assert len(folder) == 2
    message = "names 1 pictures that are not there, such as gone.png; mend it, or leave"
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(folder, strict=True).prepare()


def test_an_empty_split_and_an_impossible_share_are_refused(tmp_path):
    pictures(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match="nothing in the split val; use another val_share"):
        Folder(path=str(tmp_path), split="val", val_share=0.0).prepare()
    with pytest.raises(ValueError, match="val_share=1.5"):
        Folder(path=str(tmp_path), val_share=1.5)


def test_pictures_are_opaque_small_and_decoded_once(tmp_path, monkeypatch):
    picture(tmp_path / "a.png", (200, 0, 0, 0), (100, 50), "RGBA")
    picture(tmp_path / "b.png", (1, 2, 3), (8, 8))
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    folder = Folder(path=str(tmp_path), split="all", side=10)
    first = folder[0]["image"]
    assert first.shape == (10, 20, 3) and (first == 255).all() and folder[1]["image"].shape == (8, 8, 3)
    # An example that is kept is the same array, and nobody may write into it.
    assert folder[0]["image"] is first and not first.flags.writeable
    none_kept = Folder(path=str(tmp_path), split="all", side=10, memory_mb=0)
    assert none_kept[0]["image"] is not none_kept[0]["image"]
    np.testing.assert_array_equal(none_kept[0]["image"], first)
    copy = pickle.loads(pickle.dumps(folder))
    assert copy == folder and set(vars(copy)) == {*folder.__dataclass_fields__}


def test_a_picture_that_cannot_be_read_is_a_bad_example_with_its_path(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    (tmp_path / "a.png").write_bytes(b"no picture")
    folder = Folder(path=str(tmp_path), split="all")
    with pytest.raises(BadExample) as error:
        folder[0]
    assert error.value.reason == "undecodable" and error.value.where == str(tmp_path / "a.png")
    (tmp_path / "b.png").unlink()
    with pytest.raises(BadExample, match="b.png is not there"):
        folder[1]


def test_a_resolved_folder_knows_its_form_and_that_nothing_changed(tmp_path, monkeypatch):
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "list.csv").write_text("file,caption\na.png,a\nb.png,b\n")
    monkeypatch.chdir(tmp_path.parent)
    found = Folder(path=tmp_path.name, split="all").resolved()
    assert (found.path, found.kind, found.table) == (str(tmp_path), "table", "list.csv")
    again = Folder(path=str(tmp_path), split="all").resolved()
    assert again == found
    again.prepare()
    (tmp_path / "list.csv").write_text("file,caption\na.png,a\nb.png,B\n")
    assert Folder(path=str(tmp_path), split="all").resolved() != found
    with pytest.raises(ValueError, match="has changed since this run began"):
        Folder(**{name: getattr(found, name) for name in found.__dataclass_fields__}).prepare()
