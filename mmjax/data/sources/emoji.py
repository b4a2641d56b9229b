"""Drawings of emoji in several styles, with names and keywords: a small, real set of pictures and words.

`docs/emoji.md` tells where they come from, under which licences, and how the splits are made.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from mmjax.data.sources import drawings
from mmjax.data.sources.emoji_join import NAMES_FILE, SPLITS, VERSION
from mmjax.data.sources.emoji_styles import Collection
from mmjax.data.sources.fetching import data_root

MIN_PX, MAX_PX = 16, 160  # above, TFDS would shuffle a split on the disk, for which it needs TensorFlow

_WHAT = "the emoji data set"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Emoji:
    """One split of the emoji data set.

    The split is read into memory at first use, px * px * 4 bytes an example: 120 MB and one second for
    `train` at 64 px. An example then takes 2 microseconds; from the disk it would take 180 each time, a
    tenth of what a small model needs to learn from it.
    """

    split: str = "train"
    px: int = 64  # side of the pictures
    data_dir: str | None = None  # None: $MMJAX_DATA_DIR, else mmjax/data in the user's cache directory
    collection: Collection | None = None  # None: the pinned packages, Collection()

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"split={self.split!r} is not a split of emoji; use one of {', '.join(SPLITS)}")
        if not MIN_PX <= self.px <= MAX_PX:
            raise ValueError(f"px={self.px} is out of range; use {MIN_PX} to {MAX_PX}")

    def prepare(self) -> None:
        """Fetches and builds all splits, unless they are there: under a minute on two cores.

        Raises:
            ValueError: a package cannot be fetched or differs from its checksum, a Python package is not
                installed, or the disk is full.
        """
        if self.folder.exists():
            return
        with drawings.naming_what_is_missing(_WHAT):
            from mmjax.data.sources.emoji_build import build
        build(self._collection, self.px, folder=self.folder, downloads=data_root(self.data_dir) / "downloads")

    def __len__(self) -> int:
        return len(self._drawings.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`image` uint8 [px, px, 4], straight alpha, not writeable; `text`: name, keywords; `id`: concept."""
        record = self._drawings.records[index]
        return {"image": self._drawings.images_BHWC[index], "text": record["text"], "id": record["id"]}

    @functools.cached_property
    def names(self) -> dict[int, str]:
        """English name of every concept of the split by id."""
        return dict(sorted((record["id"], record["text"][0]) for record in self._drawings.records))

    def names_in(self, language: str) -> dict[int, str]:
        """Name of every concept of the data set by id, in a language such as `de` or `pt`.

        Raises:
            ValueError: there are no names in this language; the message lists those there are.
        """
        self._require()
        names = json.loads((self.folder / NAMES_FILE).read_text(encoding="utf-8"))
        if language not in names:
            raise ValueError(f"no emoji names in {language!r}; use one of {', '.join(sorted(names))}")
        return {int(id_): name for id_, name in names[language].items()}

    @property
    def licence(self) -> str:
        sources = (
            f"{package.spec} by {package.author} ({package.licence})" for package in self._collection.packages
        )
        return f"Emoji drawings and names from {'; '.join(sources)}. Drawings were rendered and cropped."

    @property
    def folder(self) -> Path:
        """Where the records, `LICENCES.txt` and the names in other languages are, once they are built."""
        return data_root(self.data_dir) / "emoji" / f"{self.px}px-{self._collection.digest}" / VERSION

    @property
    def _collection(self) -> Collection:
        return self.collection or Collection()

    @functools.cached_property
    def _drawings(self) -> drawings.Drawings:
        self._require()
        return drawings.read(self.folder, self.split, what=_WHAT)

    def _require(self) -> None:
        if not self.folder.exists():
            raise ValueError(f"no emoji data set in {self.folder}; call prepare() first, which builds it")

    def __getstate__(self) -> dict[str, Any]:
        # Fields only: a worker process reads the examples itself.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
