"""Texts of a folder's files: `x.txt`, `x.json`, and tables that name pictures, CSV and JSONL."""

import csv
import dataclasses
import io
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

# What columns and keys are called, in order of preference; `caption_de`, with anything after it, too.
PICTURE = ("file_name", "filename", "filepath", "file_path", "image_path", "image", "path", "file", "img")
CAPTION = ("caption", "captions", "text", "texts", "sentence", "sentences")
# Only where there is none of those.
_LESS = ("title", "description", "alt", "alt_text", "prompt", "label", "tags")
LABEL = ("label", "class")
_SEPARATORS = (",", "\t", ";", "|")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of columns and keys where they are not to be guessed."""

    picture: str | None = None
    captions: tuple[str, ...] = ()
    label: str | None = None

    def of_picture(self, keys: list[str]) -> str | None:
        wanted = PICTURE if self.picture is None else (self.picture,)
        return next((key for name in wanted for key in keys if key.strip().lower() == name.lower()), None)

    def of_captions(self, keys: list[str]) -> list[str]:
        if self.captions:
            return [key for name in self.captions for key in keys if key.strip().lower() == name.lower()]
        label = self.of_label(keys)
        # What is asked for is not to be told.
        others = [key for key in keys if self.label is None or key != label]
        for names in (CAPTION, _LESS):
            if found := [key for name in names for key in others if _is(key, name)]:
                return found
        return [] if label is None else [label]

    def of_label(self, keys: list[str]) -> str | None:
        """The column that says of which class a row is: the named one, or one beside which is no text."""
        said = {*CAPTION, *_LESS}.difference(LABEL)
        if self.label is None and (self.captions or any(_is(key, name) for key in keys for name in said)):
            return None
        wanted = LABEL if self.label is None else (self.label,)
        return next((key for name in wanted for key in keys if key.strip().lower() == name.lower()), None)


class Row(NamedTuple):
    """What a table says of a picture in one row."""

    picture: str
    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    same: str  # the row's id, or empty
    label: str | None  # its class, where it has one


def of_file(path: pathlib.Path, columns: Columns, left_out: dict[str, list[str]]) -> list[tuple[str, str]]:
    """(kind, text) of `x.txt`, where each line is a caption, or `x.json`."""
    try:
        content = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".txt":
            return [("text", line) for line in _lines(content) if line.strip()]
        value = json.loads(content)
    except UnicodeDecodeError:
        left_out["text that is not UTF-8"].append(path.name)
    except json.JSONDecodeError:
        left_out["damaged JSON"].append(path.name)
    else:
        return _texts(value, columns) if isinstance(value, dict) else list(_flat("text", value))
    return []


def rows(path: pathlib.Path, columns: Columns, left_out: dict[str, list[str]]) -> Iterator[Row]:
    """The rows of a table.

    Raises:
        ValueError: it is not UTF-8 or has no column of pictures or of captions; names those it has.
    """
    if not path.is_file():
        raise ValueError(f"there is no table {path}")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error
    is_json = path.suffix.lower() == ".jsonl"
    records = _json_rows(path, content, left_out) if is_json else _csv_rows(path, content, columns, left_out)
    keys: dict[str, None] = {}  # in order
    any_row = False
    for record in records:
        keys |= dict.fromkeys(record)
        picture, captions = columns.of_picture(list(record)), columns.of_captions(list(record))
        if picture is None or not captions:
            left_out["row without a picture or caption"].append(f"{path.name}: {_short(record)}")
            continue
        any_row = True
        label = _label(record, columns)
        if label == "":
            left_out["row without a class"].append(f"{path.name}: {_short(record)}")
            continue
        same = next((str(value) for key, value in record.items() if key.strip().lower() == "id"), "")
        is_text = label is not None and captions == [columns.of_label(captions)]
        texts = [(captions[0].strip(), label)] if is_text else _texts(record, columns)
        yield Row(str(record[picture]), tuple(t for _, t in texts), tuple(k for k, _ in texts), same, label)
    if not any_row:
        raise ValueError(_no_columns(path, list(keys), columns))


def _csv_rows(path, content, columns, left_out) -> Iterator[dict[str, str]]:
    header = content.partition("\n")[0]
    separator = next((s for s in _SEPARATORS if _has_all(header, s, columns)), None)
    if separator is None:
        separator = max(_SEPARATORS, key=header.count)
        raise ValueError(_no_columns(path, _fields(header, separator), columns, separator))
    limit = csv.field_size_limit(
        max(len(content), 1)
    )  # a field of a megabyte is left out later, with its name
    # Strict: a quote that is never closed would take all rows up to the next one for its own.
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True)
    begins = 1
    try:
        keys = next(reader)
        begins = reader.line_num + 1
        for fields in reader:
            if len(fields) > len(keys):
                left_out["row of more fields than the header (quote what holds the separator)"].append(
                    f"{path.name}:{begins}"
                )
            elif fields:
                yield dict(itertools.zip_longest(keys, fields, fillvalue=""))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}:{begins}: {error}; close the quotes of the row that begins here, and write a quote "
            'within them twice: ""'
        ) from error
    finally:
        csv.field_size_limit(limit)


def _json_rows(path, content, left_out) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(content), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if isinstance(record, dict):
            yield record
        else:
            left_out["line that is no JSON object"].append(f"{path.name}:{number}")


def _lines(content: str) -> list[str]:
    """Lines of a file, whose ends are all \\n once it is read. `splitlines` cuts at U+2028, U+2029 and U+0085
    as well, which are letters of a caption like any other."""
    return content.split("\n")


def _has_all(header: str, separator: str, columns: Columns) -> bool:
    keys = _fields(header, separator)
    labelled = columns.label is None or columns.of_label(keys) is not None
    return columns.of_picture(keys) is not None and bool(columns.of_captions(keys)) and labelled


def _fields(header: str, separator: str) -> list[str]:
    return next(csv.reader([header.strip("\r\n")], delimiter=separator), [])


def _no_columns(path, keys: list[str], columns: Columns, separator: str | None = None) -> str:
    pictures = PICTURE if columns.picture is None else (columns.picture,)
    by = f" separated by {separator!r}" if separator else ""
    return (
        f"{path} has the columns {', '.join(map(repr, keys)) or 'of no row'}{by}; wanted one of pictures "
        f"({', '.join(pictures)}) and one of captions ({', '.join(columns.captions or CAPTION)}) or of "
        f"classes ({columns.label or ', '.join(LABEL)}): rename them, or name them in a config: "
        "Folder(picture=NAME, captions=(NAME,)) or Folder(label=NAME)"
    )


def _texts(record: dict[str, Any], columns: Columns) -> list[tuple[str, str]]:
    keys = columns.of_captions(list(record))
    return [pair for key in keys for pair in _flat(key.strip(), record[key])]


def _flat(kind: str, value: Any) -> Iterator[tuple[str, str]]:
    """(kind, text) of a string, a list of such values, or a dict of them by language."""
    if isinstance(value, str):
        yield kind, value
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(kind, inner)
    elif isinstance(value, dict):
        for language, inner in value.items():
            yield from _flat(f"{kind}.{language}", inner)


def _is(key: str, name: str) -> bool:
    key = key.strip().lower()
    return key == name or key.startswith(f"{name}_")


def _label(record: dict[str, Any], columns: Columns) -> str | None:
    """The class of a row, empty where that is missing; None where rows are of no classes."""
    key = columns.of_label(list(record))
    value = None if key is None else record[key]
    if isinstance(value, (str, int)):
        return " ".join(str(value).split())
    return None if columns.label is None else ""


def _short(record: dict) -> str:
    return repr(record)[:60]
