"""Folders of pictures: what kind they are, what is read of them, and what cannot be used."""

import csv
import json
import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from mmjax.data import MAX_CAPTION, BadExample
from mmjax.data.sources.folder import Folder


def picture(path, colour=(10, 20, 30), size=(6, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def pictures(root, *names):
    for name in names:
        picture(root / name)


def everything(root, **fields):
    """The texts and kinds of all that is read of a folder, by picture."""
    folder = Folder(path=str(root), split="all", **fields)
    folder.prepare()
    return [folder.texts(index) for index in range(len(folder))]


def refused(root, **fields):
    with pytest.raises(ValueError) as error:
        Folder(path=str(root), split="all", **fields).prepare()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_texts_beside_pictures_are_read_in_the_order_of_paths(tmp_path):
    pictures(tmp_path, "b.png", "a/z.jpg", "a/y.JPEG", "c.webp", ".hidden.png")
    (tmp_path / "b.txt").write_text("second\n\n  a  b\n")
    (tmp_path / "a" / "z.json").write_text(json.dumps({"caption": "first", "url": "x", "height": 3}))
    (tmp_path / "a" / "y.txt").write_text("zeroth")
    (tmp_path / "c.json").write_text(json.dumps(["third", "also"]))
    folder = Folder(path=str(tmp_path), split="all")
    found = everything(tmp_path)
    assert [example["text"] for example in found] == [
        ("zeroth",),
        ("first",),
        ("second", "a b"),
        ("third", "also"),
    ]
    assert [example["id"] for example in found] == [0, 1, 2, 3]
    assert folder.names == {} and len(folder) == 4
    assert folder[2]["image"].shape == (4, 6, 3) and folder[2]["text"] == ("second", "a b")


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_a_table_is_read_whatever_separates_its_columns(tmp_path, separator):
    pictures(tmp_path, "x 1.png", "sub/b.png")
    rows = [
        ("Caption", "path", "n"),
        ('with "quotes", and ; | signs', "sub/b.png", "1"),
        ("a", "x 1.png", "2"),
    ]
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    assert [example["text"] for example in everything(tmp_path)] == [
        ('with "quotes", and ; | signs',),
        ("a",),
    ]


def test_rows_of_one_picture_are_its_captions_and_columns_their_kinds(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "b.png", "caption": {"en": "a dog", "de": ["ein Hund", "der Hund"]}, '
        '"caption_alt": "dog"}\n'
        '{"file_name": "a.png", "caption": "one"}\n\n{"file_name": "./a.png", "caption": "two"}\n'
    )
    first, second = everything(tmp_path)
    assert first["text"] == ("one", "two") and first["kinds"] == ("caption", "caption")
    assert second["text"] == ("a dog", "ein Hund", "der Hund", "dog")
    assert second["kinds"] == ("caption.en", "caption.de", "caption.de", "caption_alt")


def test_columns_may_be_named(tmp_path):
    pictures(tmp_path, "a.png")
    (tmp_path / "list.csv").write_text("file_name,caption,thumb,words\nb.png,wrong,a.png,right\n")
    (found,) = everything(tmp_path, picture="thumb", captions=("words",))
    assert found["text"] == ("right",) and found["kinds"] == ("words",)


def test_folders_may_be_classes(tmp_path):
    pictures(tmp_path, "tabby_cat/1.png", "tabby_cat/deep/2.png", "dog/1.png")
    folder = Folder(path=str(tmp_path), split="all")
    assert folder.names == {0: "dog", 1: "tabby cat"}
    assert [(e["text"], e["id"]) for e in everything(tmp_path)] == [
        (("dog",), 0),
        (("tabby cat",), 1),
        (("tabby cat",), 1),
    ]


def test_equal_ids_are_the_same_thing(tmp_path):
    pictures(tmp_path, "a.png", "b.png", "c.png", "d.jpg", "d.png")
    lines = [
        {"file_name": f"{name}.png", "id": id_, "text": "t"} for name, id_ in (("a", 7), ("b", 7), ("c", 8))
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    first, second, third = (example["id"] for example in everything(tmp_path))
    assert first == second != third
    # Two pictures of one name share the text beside them.
    (tmp_path / "list.jsonl").unlink()
    (tmp_path / "d.txt").write_text("d")
    first, second = everything(tmp_path)
    assert first["id"] == second["id"] and first["text"] == second["text"] == ("d",)


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


def test_captions_that_are_none_are_left_out_and_counted(tmp_path, caplog):
    pictures(tmp_path, "good.png", "empty.png", "endless.png", "half.png", "latin.png", "damaged.png")
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "endless.txt").write_text("word " * 200_000)
    (tmp_path / "half.txt").write_text("kept\n" + "x" * (MAX_CAPTION + 1))
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "damaged.json").write_text("{")
    with caplog.at_level(logging.WARNING, "mmjax"):
        assert [example["text"] for example in everything(tmp_path)] == [("good",), ("kept",)]
    said = "\n".join(caplog.messages)
    assert "2 x caption of more than 10,000 characters (endless.png, half.png)" in said
    assert "1 x text that is not UTF-8 (latin.txt)" in said and "1 x damaged JSON (damaged.json)" in said
    assert "3 x empty caption (damaged.png, empty.png, latin.png)" in said


def test_rows_that_do_not_fit_are_left_out_and_counted(tmp_path, caplog):
    pictures(tmp_path, "a.png", "b.png", "c.png")
    endless = "word " * 200_000  # a field longer than Python's csv reads by default
    (tmp_path / "list.csv").write_text(
        f"file_name,caption\na.png,a\nb.png,one, two\ngone.png,g\nc.png,{endless}\n"
    )
    with caplog.at_level(logging.WARNING, "mmjax"):
        assert [example["text"] for example in everything(tmp_path)] == [("a",)]
    said = "\n".join(caplog.messages)
    for left in ("row of more fields than the header", "caption without a picture (gone.png)", "(c.png)"):
        assert f"1 x {left}" in said or left in said
    (tmp_path / "list.csv").unlink()
    (tmp_path / "list.jsonl").write_text('{"image": "a.png", "text": "a"}\n[1]\n{"image": \n')
    with caplog.at_level(logging.WARNING, "mmjax"):
        assert len(everything(tmp_path)) == 1
    assert (
        "2 x line that is no JSON object (list.jsonl:2, list.jsonl:3)"
        in caplog.messages[-2] + caplog.messages[-1]
    )


def test_folders_with_nothing_to_train_on_are_refused(tmp_path):
    assert (
        refused(tmp_path / "none")
        == f"there is no folder {tmp_path / 'none'}; give one with pictures, or tfds:NAME"
    )
    (tmp_path / "notes.md").write_text("mine")
    assert "no picture among 1 files; pictures end in .avif" in refused(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    assert "1 files of captions but no picture" in refused(tmp_path)
    pictures(tmp_path, "b.png", "sub/c.png")
    message = refused(tmp_path)
    assert "2 pictures without captions, such as b.png; put x.txt or x.json beside x.jpg" in message
    (tmp_path / "b.txt").write_text("")
    message = refused(tmp_path)
    assert "2 pictures and none can be used (1 x picture without a caption, such as sub/c.png" in message
    assert "1 x empty caption, such as b.png" in message


def test_tables_that_name_no_picture_or_caption_are_refused_with_their_columns(tmp_path):
    pictures(tmp_path, "a.png")
    table = tmp_path / "list.csv"
    table.write_text("picture_of,words;more\na.png,x\n")
    message = refused(tmp_path)
    assert f"{table} has the columns 'picture_of', 'words;more' separated by ','; wanted one of" in message
    assert "Folder(picture=NAME, captions=(NAME,))" in message and "file_name" in message
    table.write_text("a.png,a cat\n")
    assert "has the columns 'a.png', 'a cat'" in refused(tmp_path)
    table.write_text("file_name,caption\nb.png,b\n")
    assert "none can be used (1 x caption without a picture, such as b.png" in refused(tmp_path)
    table.write_bytes("file_name,caption\na.png,caf\xe9\n".encode("latin-1"))
    assert "is not UTF-8" in refused(tmp_path)
    (tmp_path / "other.jsonl").write_text('{"image": "a.png"}\n')
    assert "holds 2 tables (list.csv, other.jsonl), wanted one" in refused(tmp_path)
    assert f"{tmp_path}/other.jsonl has the columns 'image'; wanted" in refused(tmp_path, table="other.jsonl")
    assert "there is no table" in refused(tmp_path, table="third.csv")


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
