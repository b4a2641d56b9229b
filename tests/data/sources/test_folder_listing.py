"""What kind of folder it is, which pictures and texts it holds, and what cannot be used."""

import json
import logging

from folders import everything, picture, pictures, refused

from mmjax.data import MAX_CAPTION
from mmjax.data.sources.folder import Folder


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
    # An id is no file's name.
    (tmp_path / "list.jsonl").write_text(
        '{"file_name": "a.png", "id": "b", "text": "t"}\n{"file_name": "b.png", "text": "t"}'
    )
    first, second = (example["id"] for example in everything(tmp_path))
    assert first != second
    # Two pictures of one name share the text beside them.
    (tmp_path / "list.jsonl").unlink()
    (tmp_path / "d.txt").write_text("d")
    first, second = everything(tmp_path)
    assert first["id"] == second["id"] and first["text"] == second["text"] == ("d",)


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


def test_captions_that_are_no_unicode_are_left_out_and_counted(tmp_path, caplog):
    pictures(tmp_path, "a.png", "b.png")
    (tmp_path / "a.json").write_text(r'["half \ud83d of a face", "a whole \ud83d\ude00"]')
    (tmp_path / "b.json").write_text(r'{"caption": "\udc00"}')
    with caplog.at_level(logging.WARNING, "mmjax"):
        (found,) = everything(tmp_path)
    assert found["text"] == ("a whole \N{GRINNING FACE}",)
    assert "2 x caption with half a surrogate pair, which is no Unicode (a.png, b.png)" in caplog.text
    # An id need not be written in any encoding.
    (tmp_path / "list.jsonl").write_text(r'{"path": "a.png", "text": "a", "id": "\ud800"}')
    sizes = [len(Folder(path=str(tmp_path), split=split, val_share=0.5)) for split in ("train", "val")]
    assert sorted(sizes) == [0, 1]


def test_pictures_of_a_table_may_have_no_ending_and_lie_elsewhere(tmp_path):
    elsewhere, root = tmp_path / "disk" / "pictures", tmp_path / "mine"
    for number in range(3):
        picture(elsewhere / f"p{number}.png", (number, 0, 0))
        (elsewhere / f"p{number}.png").rename(elsewhere / f"p{number}")
    root.mkdir()
    where = [str(elsewhere / "p0"), "../disk/pictures/p1", str(elsewhere / "p2")]
    (root / "list.csv").write_text("path,text\n" + "".join(f"{path},t{i}\n" for i, path in enumerate(where)))
    # The way up from a link is not the way up from the folder that it leads to.
    link = tmp_path / "deep" / "er" / "link"
    link.parent.mkdir(parents=True)
    link.symlink_to(root)
    for folder in (root, link, link.parent / ".." / ".." / "mine"):
        source = Folder(path=str(folder), split="all")
        texts = {example["text"][0]: example["id"] for example in everything(folder)}
        assert texts.keys() == {"t0", "t1", "t2"} and len(set(texts.values())) == 3
        for index in range(3):
            assert source[index]["text"] == (f"t{source[index]['image'][0, 0, 0]}",)
    (elsewhere / "p2").unlink()
    assert len(everything(root)) == 2
    (root / "list.csv").write_text("path,text\ngone,t\n")
    assert "none can be used (1 x caption without a picture, such as gone)" in refused(root)


def test_paths_of_a_table_may_be_absolute(tmp_path, monkeypatch):
    pictures(tmp_path, "a.png", "sub/b.png")
    (tmp_path / "list.csv").write_text(f"path,text\n{tmp_path}/sub/b.png,b\n{tmp_path}/./a.png,a\n")
    relative = [("a.png", ("a",)), ("sub/b.png", ("b",))]
    monkeypatch.chdir(tmp_path.parent)
    for root in (tmp_path, tmp_path.name):
        entries = Folder(path=str(root), split="all")._entries
        assert [(entry.picture, entry.texts) for entry in entries] == relative


def test_tfrecord_files_are_refused_with_the_way_to_convert_them(tmp_path):
    (tmp_path / "set" / "1.0.0").mkdir(parents=True)
    (tmp_path / "set" / "1.0.0" / "set-train.tfrecord-00000-of-00001").touch()
    folder = tmp_path / "set" / "1.0.0"
    message = refused(tmp_path / "set")
    assert message.startswith(f"{folder} holds tfrecord files, such as set-train.tfrecord-00000-of-00001, ")
    assert "there is no dataset_info.json to tell their fields: write it with" in message
    (folder / "dataset_info.json").write_text("{}")
    message = refused(tmp_path / "set")
    assert "dataset_info" not in message
    assert message.endswith(
        f"convert_format --dataset_version_dir={folder} --out_file_format=array_record; "
        f"then give tfds:{folder}"
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
