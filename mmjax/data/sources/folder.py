"""A folder of your own pictures: with captions beside them or in a table, or with a class each.

`docs/data.md` tells the forms, and what is done with files that do not fit.
"""

import dataclasses
import functools
import hashlib
import logging
import pathlib
from typing import Any, Literal

import numpy as np

from mmjax.data import decode
from mmjax.data.geometry import WHITE
from mmjax.data.sources import folder_listing
from mmjax.data.sources.folder_listing import LOST, Entry, Kind, Listing
from mmjax.data.sources.folder_texts import Columns
from mmjax.data.sources.held_out import held_out
from mmjax.data.sources.kept import Kept

log = logging.getLogger("mmjax")

# Names of folders that are splits; the first that is there.
_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev", "test")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder:
    """One split of a folder. Pictures are RGB: what is transparent is put on white.

    Where there are folders `train` and `val` (or `valid`, `validation`, `dev`, `test`) in it these are the
    splits; else a share of the pictures is `val`, by a hash of their paths, or of the ids of a table's rows,
    so that what shows the same thing stays together. An `id` stands for a class, for the `id` of a table's
    row, or for a file's path without its ending.
    """

    path: str
    split: Literal["train", "val", "all"] = "train"
    val_share: float = 0.05  # of the pictures, where the folder has no splits of its own
    kind: Kind | None = None  # None recognises it
    table: str | None = None  # name of the CSV or JSONL file; None takes the one that is there
    picture: str | None = None  # column of the table with the pictures' paths; None looks for a usual name
    captions: tuple[str, ...] = ()  # columns of the table, keys of JSON, with texts; () looks for usual names
    # Column of the table with the class of each row; None: `label` or `class`, where no column has captions.
    label: str | None = None
    side: int | None = 256  # pixels; pictures with a longer shorter side are shrunk to it when they are read
    strict: bool = False  # refuse a table that names pictures which are not there; else these are left out
    memory_mb: int = 1_000  # for pictures that are kept once they are decoded
    digest: str = ""  # of what the folder held when a run began; empty accepts any

    def __post_init__(self):
        if not 0 <= self.val_share < 1:
            raise ValueError(f"val_share={self.val_share} is a share; use a value in [0, 1)")

    def prepare(self) -> None:
        """Reads the names and texts of all files, and logs what was found.

        Raises:
            ValueError: the folder holds nothing of the split, or not what it held when the run began, or its
                table names pictures that are not there and `strict` is set.
        """
        lost = self._listing.left_out.get(LOST, [])
        if self.strict and lost and self._listing.kind == "table":
            raise ValueError(
                f"the table in {self.path} names {len(lost)} pictures that are not there, such as {lost[0]}; "
                "mend it, or leave them out with strict=False"
            )
        if not self._entries:
            raise ValueError(f"{self.path} has nothing in the split {self.split}; use another val_share")
        if self.digest and self.digest != self.fingerprint:
            raise ValueError(
                f"{self.path} has changed since this run began (digest {self.digest}, now "
                f"{self.fingerprint}); restore it, or begin another run"
            )
        _ = self._said  # once, though several evaluators may ask

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = pathlib.Path(self.path) / self._entries[index].picture
        image = self._kept.picture(index, lambda: decode.opaque(decode.pixels(path, side=self.side), WHITE))
        return {"image": image, **self.texts(index)}

    def texts(self, index: int) -> dict[str, Any]:
        """Example `index` without its picture."""
        entry = self._entries[index]
        return {"text": entry.texts, "kinds": entry.kinds, "id": self._id_of[entry.same]}

    @functools.cached_property
    def names(self) -> dict[int, str]:
        """The classes, where the folder has them."""
        return {id_: name for name, id_ in self._id_of.items()} if self._listing.classes else {}

    @property
    def licence(self) -> str:
        return f"Pictures and texts of the folder {pathlib.Path(self.path).name}."

    @functools.cached_property
    def fingerprint(self) -> str:
        """Equal for folders of the same paths and texts, in all splits; pictures are not read."""
        digest = hashlib.blake2b(digest_size=8)
        for entry in self._listing.entries:
            digest.update(repr(entry).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def resolved(self) -> "Folder":
        """This folder as a run keeps it: absolute, of a stated kind, and changed no more."""
        path = str(pathlib.Path(self.path).expanduser().absolute())
        found = dataclasses.replace(self, path=path)
        listing = found._listing
        table = listing.table or None
        return dataclasses.replace(found, kind=listing.kind, table=table, digest=found.fingerprint)

    @functools.cached_property
    def _splits(self) -> dict[str, str]:
        """Folders that are splits, by split; empty where there are none."""
        root = pathlib.Path(self.path)
        found = {}
        for split, names in _SPLITS.items():
            there = [name for name in names if (root / name).is_dir()]
            found |= {split: there[0]} if there else {}
        has_table = any(path.suffix.lower() in folder_listing.TABLES for path in root.glob("*"))
        return {} if has_table or len(found) < len(_SPLITS) else found

    @functools.cached_property
    def _listing(self) -> Listing:
        """Of all splits."""
        root, columns = pathlib.Path(self.path), Columns(self.picture, self.captions, self.label)
        if not self._splits:
            return folder_listing.list_folder(root, self.kind, self.table, columns)
        parts, kind = {}, self.kind
        for name in (self._splits["train"], self._splits["val"]):
            # A single folder of validation pictures does not say that it is a class.
            parts[name] = folder_listing.list_folder(root / name, kind, self.table, columns)
            kind = parts[name].kind
        left_out: dict[str, list[str]] = {}
        for name, listing in parts.items():
            for why, names in listing.left_out.items():
                left_out.setdefault(why, []).extend(f"{name}/{inside}" for inside in names)
        entries = [
            entry._replace(picture=f"{name}/{entry.picture}")
            for name, listing in sorted(parts.items())
            for entry in listing.entries
        ]
        tables = {listing.table for listing in parts.values()}
        table = tables.pop() if len(tables) == 1 else ""
        return Listing(kind, table, entries, left_out, all(listing.classes for listing in parts.values()))

    @functools.cached_property
    def _entries(self) -> list[Entry]:
        entries = self._listing.entries
        if self.split == "all":
            return entries
        if self._splits:
            return [entry for entry in entries if entry.picture.startswith(f"{self._splits[self.split]}/")]
        wanted = self.split == "val"
        return [entry for entry in entries if held_out(self._unit(entry), self.val_share) == wanted]

    def _unit(self, entry: Entry) -> str:
        """What is held out together: a picture of a class, or all that shows the same thing."""
        return entry.picture if self._listing.classes else entry.same

    @functools.cached_property
    def _id_of(self) -> dict[str, int]:
        return {same: id_ for id_, same in enumerate(sorted({entry.same for entry in self._listing.entries}))}

    @functools.cached_property
    def _kept(self) -> Kept:
        return Kept(self.memory_mb * 10**6)

    @functools.cached_property
    def _said(self) -> None:
        listing, entries = self._listing, self._entries
        form = f"table {listing.table}" if listing.table else listing.kind
        by = "as its folders are named" if self._splits else f"by hash, val_share={self.val_share}"
        log.info("%s: %s; %d pictures of %s (%s)", self.path, form, len(entries), self.split, by)
        if self.split == "val":
            return
        texts = sum(len(entry.texts) for entry in entries)
        same = len({entry.same for entry in entries})
        log.info("  %d texts, %d different %s", texts, same, "classes" if self.names else "ids")
        for index in np.linspace(0, len(entries) - 1, min(3, len(entries))).astype(int):
            log.info("  %s: %s", entries[index].picture, " | ".join(entries[index].texts[:3])[:200])
        for why, names in listing.left_out.items():
            log.warning("  left out: %d x %s (%s)", len(names), why, ", ".join(names[:3]))

    def __getstate__(self) -> dict[str, Any]:
        # Fields only: a worker process reads the folder itself.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
