"""Data sets of drawings that were rendered once and lie in ArrayRecord files: reading a split into memory.

Letters: B examples, H W C image.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_READ_AT_ONCE = 512  # examples


class Drawings(NamedTuple):
    """One split; reading it from the disk each time would take ninety times as long."""

    images_BHWC: np.ndarray  # RGBA, not writeable
    records: list[dict[str, Any]]  # all else; lists are tuples, texts are strings


def read(folder: Path, split: str, *, what: str) -> Drawings:
    """Raises ValueError for a split without examples, or where TFDS is not installed."""
    with naming_what_is_missing(what):
        import tensorflow_datasets as tfds
    builder = tfds.builder_from_directory(folder)
    if split not in builder.info.splits:
        raise ValueError(f"split {split} of {folder} is empty; use one of {', '.join(builder.info.splits)}")
    source = builder.as_data_source(split=split)
    images_BHWC = np.empty((len(source), *builder.info.features["image"].shape), np.uint8)
    records = []
    for start in range(0, len(source), _READ_AT_ONCE):
        stop = min(start + _READ_AT_ONCE, len(source))
        for index, record in enumerate(source.__getitems__(range(start, stop)), start=start):
            images_BHWC[index] = record.pop("image")
            records.append({name: _plain(value) for name, value in record.items()})
    images_BHWC.flags.writeable = False
    return Drawings(images_BHWC, records)


def _plain(value):
    if isinstance(value, bytes):
        return value.decode()
    return int(value) if np.ndim(value) == 0 else tuple(_plain(one) for one in value)


@contextlib.contextmanager
def naming_what_is_missing(what: str) -> Iterator[None]:
    """Around imports: one that is not installed is named in a ValueError, with the remedy."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = error.name.replace("_", "-")
        raise ValueError(f"{what} needs {package}, which is not installed; pip install {package}") from error
