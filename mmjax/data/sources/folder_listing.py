"""What a folder of pictures holds: which kind it is, and every picture with its texts, in a fixed order.

Kinds: `table`, a CSV or JSONL file that names pictures and texts, or classes; `pairs`, `x.txt` or `x.json`
beside `x.jpg`; `classes`, a folder a class. Whatever the kind, pictures are in order of their paths.
"""

import collections
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from mmjax.data import MAX_CAPTION
from mmjax.data.sources import folder_texts, tfrecords
from mmjax.data.sources.folder_texts import Columns

Kind = Literal["table", "pairs", "classes"]

PICTURES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
TABLES = (".csv", ".jsonl", ".tsv")
LOST = "caption without a picture"  # why something is left out
_TEXTS = (".txt", ".json")
# JSON can write it, and UTF-8 cannot.
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_REMEDY = (
    "put x.txt or x.json beside x.jpg, or a captions.csv or metadata.jsonl that names pictures and captions "
    "into the folder, or the pictures of each class into a folder of its name"
)


class Entry(NamedTuple):
    """One picture and what is said of it."""

    picture: str  # path from the folder on, or absolute; with /
    texts: tuple[str, ...]
    kinds: tuple[str, ...]  # of the texts: column, key, or key.language
    same: str  # equal for what shows the same thing: a class, a row's id, or the path without its ending


class Listing(NamedTuple):
    kind: Kind
    table: str  # name of the table, empty for other kinds
    entries: list[Entry]  # in order of `picture`
    left_out: dict[str, list[str]]  # what could not be used, by why
    classes: bool  # whether `same` is a class's name


def list_folder(root: pathlib.Path, kind: Kind | None, table: str | None, columns: Columns) -> Listing:
    """Everything in a folder and the folders in it; hidden files are passed over.

    Raises:
        ValueError: it is of no kind, of several, or holds nothing to train on; says what was found.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}; give one with pictures, or tfds:NAME")
    files = sorted(_walk(root))
    pictures = [name for name in files if name.lower().endswith(PICTURES)]
    # Pictures that a table names may lie elsewhere.
    if not pictures and not (kind in (None, "table") and (table or _tables(files))):
        raise ValueError(tfrecords.refusal(root) or _no_pictures(root, files))
    kind = kind or _recognised(root, files, pictures, table)
    left_out: dict[str, list[str]] = collections.defaultdict(list)
    if kind == "table":
        table = table or _only_table(root, files)
        entries, classes = _of_table(root, table, set(pictures), columns, left_out)
    elif columns.label is not None:
        raise ValueError(
            f"label={columns.label!r} is a column of a table, but {root} is of {kind}; leave it out"
        )
    elif kind == "pairs":
        entries, table, classes = _of_pairs(root, files, pictures, columns, left_out), "", False
    else:
        entries, table, classes = _of_classes(pictures, left_out), "", True
    entries = [entry for entry in map(lambda entry: _usable(entry, left_out), entries) if entry]
    if not entries:
        why = "; ".join(f"{len(names)} x {why}, such as {names[0]}" for why, names in left_out.items())
        raise ValueError(f"{root} holds {len(pictures)} pictures and none can be used ({why}); {_REMEDY}")
    return Listing(kind, table or "", entries, dict(left_out), classes)


def _walk(root: pathlib.Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        inside = pathlib.Path(folder).relative_to(root)
        yield from ((inside / name).as_posix() for name in files if not name.startswith("."))


def _no_pictures(root: pathlib.Path, files: list[str]) -> str:
    texts = sum(name.lower().endswith((*_TEXTS, *TABLES)) for name in files)
    found = f"{texts} files of captions but no picture" if texts else f"no picture among {len(files)} files"
    return f"{root} holds {found}; pictures end in {', '.join(PICTURES)}"


def _recognised(root: pathlib.Path, files: list[str], pictures: list[str], table: str | None) -> Kind:
    if table or _tables(files):
        return "table"
    texts = {_stem(name) for name in files if name.lower().endswith(_TEXTS)}
    if any(_stem(name) in texts for name in pictures):
        return "pairs"
    classes = {name.partition("/")[0] for name in pictures if "/" in name}
    loose = [name for name in pictures if "/" not in name]
    if len(classes) > 1 and not loose:
        return "classes"
    raise ValueError(
        f"{root} holds {len(pictures)} pictures without captions, such as {pictures[0]}; {_REMEDY}"
    )


def _tables(files: list[str]) -> list[str]:
    return [name for name in files if "/" not in name and name.lower().endswith(TABLES)]


def _only_table(root: pathlib.Path, files: list[str]) -> str:
    tables = _tables(files)
    if len(tables) != 1:
        raise ValueError(
            f"{root} holds {len(tables)} tables ({', '.join(tables[:5])}), wanted one; move the others "
            "away, or give the path of the one in place of the folder"
        )
    return tables[0]


def _of_table(root, table, pictures, columns, left_out) -> tuple[list[Entry], bool]:
    """One entry a picture, the texts of its rows one after the other; and whether rows are of classes: then
    there is one entry a row."""
    rows: dict[str, list[folder_texts.Row]] = {}
    for row in folder_texts.rows(root / table, columns, left_out):
        name = _within(root, row.picture)
        if name not in pictures and not (root / name).is_file():
            left_out[LOST].append(row.picture)
        else:
            rows.setdefault(name, []).append(row)
    unnamed = sorted(pictures - set(rows))
    if unnamed:
        left_out["picture without a caption"] += unnamed
    every = [(name, row) for name, of_picture in sorted(rows.items()) for row in of_picture]
    if every and all(row.label for _, row in every):
        return [Entry(name, row.texts, row.kinds, row.label) for name, row in every], True
    entries = [
        Entry(
            name,
            tuple(text for row in of_picture for text in row.texts),
            tuple(kind for row in of_picture for kind in row.kinds),
            # Two slashes are in no path, so that no id is the name of a file.
            f"id//{of_picture[0].same}" if of_picture[0].same else _stem(name),
        )
        for name, of_picture in sorted(rows.items())
    ]
    return entries, False


def _within(root: pathlib.Path, picture: str) -> str:
    """A path of a table: from the folder on where it leads into it, else as it is."""
    path, folder = pathlib.Path(os.path.normpath(picture)), pathlib.Path(os.path.abspath(root))
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def _of_pairs(root, files, pictures, columns, left_out) -> list[Entry]:
    texts: dict[str, list[str]] = {}
    for name in files:
        if name.lower().endswith(_TEXTS):
            texts.setdefault(_stem(name), []).append(name)
    entries = []
    for picture in pictures:
        names = texts.get(_stem(picture), [])
        if not names:
            left_out["picture without a caption"].append(picture)
            continue
        found = [pair for name in names for pair in folder_texts.of_file(root / name, columns, left_out)]
        shown = tuple(text for _, text in found), tuple(kind for kind, _ in found)
        entries.append(Entry(picture, *shown, _stem(picture)))
    stems = {_stem(picture) for picture in pictures}
    alone = [name for stem, names in texts.items() if stem not in stems for name in names]
    if alone:
        left_out[LOST] += alone
    return entries


def _of_classes(pictures: Iterable[str], left_out) -> list[Entry]:
    entries = []
    for picture in pictures:
        folder, inside, _ = picture.partition("/")
        if not inside:
            left_out["picture in no class's folder"].append(picture)
            continue
        name = " ".join(folder.replace("_", " ").split())
        entries.append(Entry(picture, (name,), ("class",), name))
    return entries


def _usable(entry: Entry, left_out) -> Entry | None:
    """The entry without its empty, endless and impossible texts; None where it has no others."""
    kept = []
    for text, kind in zip(entry.texts, entry.kinds, strict=True):
        if len(text) > MAX_CAPTION:
            left_out[f"caption of more than {MAX_CAPTION:,} characters"].append(entry.picture)
        elif _HALF_A_PAIR.search(text):
            left_out["caption with half a surrogate pair, which is no Unicode"].append(entry.picture)
        elif text.strip():
            kept.append((" ".join(text.split()), kind))
    if not any(text.strip() for text in entry.texts):
        left_out["empty caption"].append(entry.picture)
    if not kept:
        return None
    return entry._replace(texts=tuple(text for text, _ in kept), kinds=tuple(kind for _, kind in kept))


def _stem(name: str) -> str:
    return str(pathlib.PurePosixPath(name).with_suffix(""))
