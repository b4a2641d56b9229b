"""Texts beside pictures and in tables, as they are written, and tables that cannot be read."""

import csv
import json
import logging

import pytest
from folders import everything, pictures, refused

from mmjax.data.sources.folder import Folder


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


def test_only_ends_of_lines_end_a_line(tmp_path):
    """Letters that `str.splitlines` takes for one are part of a caption; all are one space in the end."""
    pictures(tmp_path, "a.png", "b.png")
    said = "before\u2028between\u2029and\x85after"
    (tmp_path / "a.txt").write_bytes(f"{said}\r\nsecond\r\n".encode())
    (tmp_path / "b.txt").write_bytes(f"{said}\rsecond\n".encode())
    texts = ("before between and after", "second")
    assert [example["text"] for example in everything(tmp_path)] == [texts, texts]
    records = [{"path": "a.png", "text": [said, "second"]}, {"path": "b.png", "text": [said, "second"]}]
    lines = "\r\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    (tmp_path / "list.jsonl").write_bytes(lines.encode())
    assert [example["text"] for example in everything(tmp_path)] == [texts, texts]


@pytest.mark.parametrize(
    "rows",
    [
        'c.png,"never closed\nd.png,d\n',
        'c.png,"closed by the next quote\nd.png,"d"\n',
        'c.png,"a "word" within"\nd.png,d\n',
    ],
    ids=["at the end", "in another row", "within"],
)
def test_quotes_that_do_not_fit_are_refused_with_the_line_where_their_row_begins(tmp_path, rows):
    pictures(tmp_path, *(f"{name}.png" for name in "abcd"))
    table = tmp_path / "list.csv"
    table.write_text(f'path,text\na.png,"two\nlines"\n\nb.png,"a ""word"" within"\n{rows}')
    message = refused(tmp_path)
    assert message.startswith(f"{table}:6: ") and 'write a quote within them twice: ""' in message
    table.write_text(table.read_text().removesuffix(rows))
    assert [example["text"][0] for example in everything(tmp_path)] == ["two lines", 'a "word" within']


def test_columns_may_be_named(tmp_path):
    pictures(tmp_path, "a.png")
    (tmp_path / "list.csv").write_text("file_name,caption,thumb,words\nb.png,wrong,a.png,right\n")
    (found,) = everything(tmp_path, picture="thumb", captions=("words",))
    assert found["text"] == ("right",) and found["kinds"] == ("words",)


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


def classes(root, **fields):
    """(class, texts) of every row of a table."""
    folder = Folder(path=str(root), split="all", **fields)
    folder.prepare()
    return [(folder.names[each["id"]], each["text"]) for each in map(folder.texts, range(len(folder)))]


@pytest.mark.parametrize("column", ["label", "Class"])
def test_a_table_that_says_only_of_which_class_a_picture_is_has_classes(tmp_path, column):
    pictures(tmp_path, "a.png", "b.png", "c.png", "d.png")
    (tmp_path / "labels.csv").write_text(f"file,{column}\nc.png,pear\na.png,an  apple\nb.png,pear\nd.png,\n")
    assert classes(tmp_path) == [("an apple", ("an apple",)), ("pear", ("pear",)), ("pear", ("pear",))]
    assert everything(tmp_path)[0]["kinds"] == (column,)
    said = Folder(path=str(tmp_path), split="all", captions=(column,))
    assert said.names == {} and len(said) == 3


def test_a_named_column_has_the_class_of_every_row_and_is_no_text(tmp_path):
    """A picture may be of one class with one text and of another with the next."""
    pictures(tmp_path, "a.png", "b.png")
    rows = "file,title,label,id\nb.png,a dog,yes,1\na.png,a cat,no,1\nb.png,a cow,no,2\n"
    (tmp_path / "statements.csv").write_text(rows)
    expected = [("no", ("a cat",)), ("yes", ("a dog",)), ("no", ("a cow",))]
    assert classes(tmp_path, label="label") == expected
    # Without the name a label is one text among others, as a tag is.
    assert [example["text"] for example in everything(tmp_path)] == [
        ("a cat", "no"),
        ("a dog", "yes", "a cow", "no"),
    ]


def test_classes_of_json_may_be_numbers_and_several_labels_are_texts(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    records = [{"file": "a.png", "label": 3}, {"file": "b.png", "label": 12}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert classes(tmp_path) == [("3", ("3",)), ("12", ("12",))]
    records = [{"file": "a.png", "label": ["red", "round"]}, {"file": "b.png", "label": "red"}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert [example["text"] for example in everything(tmp_path)] == [("red", "round"), ("red",)]


def test_rows_of_one_picture_are_held_out_together(tmp_path):
    pictures(tmp_path, *(f"{i}.png" for i in range(20)))
    rows = "".join(f"{i}.png,text {i} {said},{said}\n" for i in range(20) for said in ("yes", "no"))
    (tmp_path / "statements.csv").write_text(f"file,text,answer\n{rows}")
    splits = {}
    for split in ("train", "val"):
        folder = Folder(path=str(tmp_path), split=split, val_share=0.5, label="answer")
        splits[split] = [folder.texts(i)["text"][0].split()[1] for i in range(len(folder))]
        assert sorted(splits[split]) == sorted(2 * [*set(splits[split])]) and splits[split]
    assert not set(splits["train"]) & set(splits["val"])


def test_a_class_that_nothing_says_is_refused(tmp_path):
    pictures(tmp_path, "apple/a.png", "pear/b.png")
    assert "label='kind' is a column of a table, but" in refused(tmp_path, label="kind")
    (tmp_path / "list.csv").write_text("file,text\napple/a.png,one\n")
    message = refused(tmp_path, label="kind")
    assert "has the columns 'file', 'text'" in message and "or of classes (kind): rename" in message
