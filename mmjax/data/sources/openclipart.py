"""Clip art of the Open Clip Art Library with titles and keywords: a small, real, noisy set of pairs.

`docs/data.md` tells what is in it, and why its keywords are no captions for a classifier.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

from mmjax.data.sources import drawings
from mmjax.data.sources.fetching import data_root
from mmjax.data.sources.openclipart_split import SPLITS

VERSION = "1"  # of what is built; it is part of the path
MIN_PX, MAX_PX = 16, 160

# Folders with 20 drawings or more in `train`, but for the one of what nobody filed; an id is a place here.
FOLDERS = (
    "animals",
    "buildings",
    "computer",
    "decorations",
    "education",
    "electronics",
    "food",
    "geography",
    "office",
    "people",
    "plants",
    "recreation",
    "shapes",
    "signs_and_symbols",
    "special",
    "tools",
    "transportation",
)

_WHAT = "the clip art"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Openclipart:
    """One split of the clip art, read into memory at first use: px * px * 4 bytes a drawing.

    By folder an `id` is a class, and drawings of the smallest folders and of `unsorted` are left out. By
    caption it stands for the caption, whoever drew it.
    """

    split: str = "train"
    px: int = 64  # side of the pictures
    by: Literal["caption", "folder"] = "caption"  # what an `id` stands for
    data_dir: str | None = None  # None: $MMJAX_DATA_DIR, else mmjax/data in the user's cache directory

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(
                f"split={self.split!r} is not a split of clip art; use one of {', '.join(SPLITS)}"
            )
        if not MIN_PX <= self.px <= MAX_PX:
            raise ValueError(f"px={self.px} is out of range; use {MIN_PX} to {MAX_PX}")

    def prepare(self) -> None:
        """Fetches the package and builds all splits, unless they are there: some minutes on two cores.

        Raises:
            ValueError: the package cannot be fetched, a Python package is not installed, or the disk is full.
        """
        if self.folder.exists():
            return
        with drawings.naming_what_is_missing(_WHAT):
            from mmjax.data.sources.openclipart_build import build
        build(self.px, folder=self.folder, downloads=data_root(self.data_dir) / "downloads")

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`image` uint8 [px, px, 4], straight alpha, not writeable; `text`, `kinds` and `id`.

        The first text is the title, or the file's name where the title is a whole collection's; `kinds` says
        of each whether it is a title, name, description or keyword.
        """
        number = self._numbers[index]
        return {"image": self._drawings.images_BHWC[number], **self._texts(number)}

    def texts(self, index: int) -> dict[str, Any]:
        """Example `index` without its picture."""
        return self._texts(self._numbers[index])

    def _texts(self, number: int) -> dict[str, Any]:
        record = self._drawings.records[number]
        id_ = record["id"] if self.by == "caption" else FOLDERS.index(record["folder"])
        return {"text": record["text"], "kinds": record["kinds"], "id": id_}

    @property
    def names(self) -> dict[int, str]:
        """The folders, where an id is one of them."""
        if self.by == "caption":
            return {}
        return {id_: name.replace("_", " ") for id_, name in enumerate(FOLDERS)}

    @property
    def licence(self) -> str:
        return "Clip art of the Open Clip Art Library (public domain), from Debian's package openclipart-svg."

    @property
    def folder(self) -> Path:
        """Where the records and `LICENCES.txt` are, once they are built."""
        return data_root(self.data_dir) / "openclipart" / f"{self.px}px" / VERSION

    @functools.cached_property
    def _numbers(self) -> list[int]:
        """Of the drawings that have an id."""
        records = self._drawings.records
        return [n for n, record in enumerate(records) if self.by == "caption" or record["folder"] in FOLDERS]

    @functools.cached_property
    def _drawings(self) -> drawings.Drawings:
        if not self.folder.exists():
            raise ValueError(f"no clip art in {self.folder}; call prepare() first, which builds it")
        return drawings.read(self.folder, self.split, what=_WHAT)

    def __getstate__(self) -> dict[str, Any]:
        # Fields only: a worker process reads the drawings itself.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
