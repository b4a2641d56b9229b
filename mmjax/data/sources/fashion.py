"""Fashion-MNIST: 70,000 photos of clothes from above in ten classes, 28 pixels square, gray on black.

Xiao et al. 2017, arXiv:1708.07747. From Debian's package dataset-fashion-mnist, fetched with apt's client and
unpacked, not installed; or from a folder where the four files lie already.

Letters: N pictures, H W C image.
"""

import dataclasses
import functools
import gzip
import math
import os
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmjax.data.sources import debian, fetching
from mmjax.data.sources.held_out import held_out

NAMES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
SPLITS = ("train", "val", "test")
VAL = 1 / 12  # of what the authors train on: 5,000 pictures

PACKAGE = "dataset-fashion-mnist"
SHA256 = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
_FILES = {"train": "train", "val": "train", "test": "t10k"}
_MADE = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_DAMAGE = (OSError, EOFError, zlib.error, struct.error, ValueError)


class _Examples(NamedTuple):
    images_NHW: np.ndarray  # not writeable
    id_N: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fashion:
    """One split of Fashion-MNIST; an id is a class. Read into memory at first use, 47 MB for `train`.

    `train` and `val` are a stable split, by hash, of what the authors train on; `test` is theirs.
    """

    split: str = "train"
    inverted: bool = False  # dark on white, as drawings lie
    path: str | None = None  # a folder with the four idx files, gzipped or not; None fetches them
    data_dir: str | None = None  # None: $MMJAX_DATA_DIR, else mmjax/data in the user's cache directory

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(
                f"split={self.split!r} is not a split of Fashion; use one of {', '.join(SPLITS)}"
            )

    def prepare(self) -> None:
        """Fetches and unpacks the package unless its files are there, and reads the split.

        Raises:
            ValueError: there is no apt, the package cannot be fetched, or a file is missing or damaged.
        """
        if self.path is None and not self.folder.exists():
            package = debian.package(
                PACKAGE,
                fetching.data_root(self.data_dir) / "downloads",
                sha256=SHA256,
                what="Fashion-MNIST",
                otherwise=f"give path= a folder with the files {', '.join(_MADE)}",
            )
            _unpack(package, self.folder)
        len(self)

    def __len__(self) -> int:
        return len(self._examples.id_N)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`image` uint8 [28, 28, 3], not writeable; `text`: the name; `id`: the class."""
        examples = self._examples
        image_HW = examples.images_NHW[index]
        id_ = int(examples.id_N[index])
        image_HWC = np.broadcast_to(image_HW[..., None], (*image_HW.shape, 3))
        return {"image": image_HWC, "text": (NAMES[id_],), "id": id_}

    @property
    def names(self) -> dict[int, str]:
        return dict(enumerate(NAMES))

    @property
    def licence(self) -> str:
        return "Fashion-MNIST by Zalando SE (MIT), https://github.com/zalandoresearch/fashion-mnist."

    @property
    def folder(self) -> Path:
        """Where the files are, or will be."""
        if self.path is not None:
            return Path(self.path).expanduser().absolute()
        return fetching.data_root(self.data_dir) / "fashion"

    @functools.cached_property
    def _examples(self) -> _Examples:
        images_NHW, id_N = _read(self.folder, _FILES[self.split])
        if self.split != "test":
            of_val_N = np.array([held_out(f"fashion/{i}", VAL) for i in range(len(id_N))], bool)
            chosen_N = of_val_N if self.split == "val" else ~of_val_N
            images_NHW, id_N = images_NHW[chosen_N], id_N[chosen_N]
        images_NHW = 255 - images_NHW if self.inverted else images_NHW
        images_NHW.flags.writeable = False
        return _Examples(images_NHW, id_N)

    def __getstate__(self) -> dict[str, Any]:
        # Fields only: a worker process reads the examples itself.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def _unpack(package: Path, folder: Path) -> None:
    """The files of the archive as `folder`, which appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as scratch:
        debian.unpack(package, scratch)
        found = [next(iter(Path(scratch).rglob(f"{name}*")), None) for name in _MADE]
        if None in found:
            raise debian.damaged(package, "it lacks some of the files")
        whole = Path(scratch) / "whole"
        whole.mkdir()
        for path in found:
            path.rename(whole / path.name)
        try:
            os.rename(whole, folder)
        except OSError:
            if not folder.exists():  # it does where another process unpacked it meanwhile
                raise


def _read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images_NHW = _idx(folder, f"{part}-images-idx3-ubyte", axes=3)
    id_N = _idx(folder, f"{part}-labels-idx1-ubyte", axes=1).astype(np.int32)
    if len(images_NHW) != len(id_N) or not len(id_N) or id_N.max() >= len(NAMES):
        raise ValueError(
            f"{folder} holds {len(images_NHW)} pictures and {len(id_N)} labels of {part}, which should be as "
            f"many, each of one of {len(NAMES)} classes; give path= the folder of the original files"
        )
    return images_NHW, id_N


def _idx(folder: Path, name: str, *, axes: int) -> np.ndarray:
    """An array of bytes in the idx format: 0, 0, 8 for bytes, the number of axes, their sizes, the bytes."""
    path = next((folder / each for each in (name, f"{name}.gz") if (folder / each).is_file()), None)
    if path is None:
        raise ValueError(f"no {name}[.gz] in {folder}; give path= the folder of the four idx files")
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        sizes = struct.unpack_from(f">{axes}I", data, 4)
        if data[:4] != bytes((0, 0, 8, axes)) or len(data) - 4 * (1 + axes) != math.prod(sizes):
            raise ValueError("sizes and contents do not agree")
        return np.frombuffer(data, np.uint8, offset=4 * (1 + axes)).reshape(sizes)
    except _DAMAGE as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it with its folder to fetch all anew, or mend it"
        ) from error
