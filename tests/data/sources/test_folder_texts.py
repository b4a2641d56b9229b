"""Texts beside pictures and in tables, as they are written, and tables that cannot be read."""

import csv
import json
import logging

import pytest
from folders import everything, pictures, refused


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
