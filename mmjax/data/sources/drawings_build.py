"""Writes data sets of drawings as ArrayRecord: a TFDS builder, and the way into the data directory."""

import contextlib
import dataclasses
import errno
import io
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

log = logging.getLogger("mmjax")

LICENCES_FILE = "LICENCES.txt"

_UNFINISHED = ".building-"
_ABANDONED_S = 24 * 3600.0

Record = dict[str, Any]


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class DrawingsConfig(tfds.core.BuilderConfig):
    """What is written; the records of a split by their keys, whose hashes are the order on the disk."""

    px: int
    also: Mapping[str, Any]  # features beside image, text and id
    licence: str
    records: Mapping[str, Mapping[str, Record]]  # by split


class DrawingsBuilder(tfds.core.GeneratorBasedBuilder):
    """Records of image (RGBA), texts, id, and whatever else the config says."""

    VERSION = tfds.core.Version("1.0.0")  # of this form; a data set has a version of its own, in its path
    name = "drawings"

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        return tfds.core.DatasetInfo(
            builder=self,
            description=config.description,
            license=config.licence,
            features=tfds.features.FeaturesDict(
                {
                    # ArrayRecord's compression makes raw bytes as small as PNG. Without an encoding TFDS
                    # writes a list of integers, which takes ten times as long to build.
                    "image": tfds.features.Tensor(
                        shape=(config.px, config.px, 4), dtype=np.uint8, encoding="bytes"
                    ),
                    "text": tfds.features.Sequence(tfds.features.Text()),
                    "id": tfds.features.Scalar(dtype=np.int32),
                    **config.also,
                }
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # all has been fetched
        return {split: self._generate_examples(split) for split in self.builder_config.records}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, Record]]:
        yield from self.builder_config.records[split].items()


def write(config: DrawingsConfig, scratch: str) -> Path:
    """Writes records and licences; returns the folder that they are in, within `scratch`."""
    builder = DrawingsBuilder(config=config, data_dir=scratch, file_format="array_record")
    tfds.disable_progress_bar()
    # TFDS prints where the data set is to stay, but it is moved.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    built = Path(builder.data_dir)
    (built / LICENCES_FILE).write_text(config.licence, encoding="utf-8")
    return built


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[str]:
    """A folder to build in, on the disk of `folder`, where a rename is atomic."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_UNFINISHED) as made:
        yield made


def appear(built: Path, folder: Path, *, what: str) -> None:
    """Makes what was built `folder`, whole; where another process was faster its own stays."""
    try:
        os.rename(built, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        log.info("%s: another process built %s meanwhile", what, folder)
    else:
        log.info("%s: built %s", what, folder)


@contextlib.contextmanager
def room(folder: Path, *, what: str, needed_mb: int) -> Iterator[None]:
    """Refuses to start on a disk that is nearly full, and says so in one line if it fills up meanwhile."""
    disk = next(parent for parent in folder.parents if parent.exists())
    remedy = "free some, or set data_dir or MMJAX_DATA_DIR to another disk"
    free_mb = shutil.disk_usage(disk).free // 10**6
    if free_mb < needed_mb:
        raise ValueError(f"{what} needs {needed_mb} MB in {disk}, {free_mb} MB are free; {remedy}")
    try:
        yield
    except (OSError, RuntimeError) as error:  # ArrayRecord's writer raises RuntimeError
        if not any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT)):
            raise
        raise ValueError(
            f"no space left in {disk} for {what}, which needs {needed_mb} MB; {remedy}"
        ) from error


def _remove_abandoned(folder: Path) -> None:
    """Removes what a killed build left behind; a day old, so that no other process is still at it."""
    for left in folder.glob(f"{_UNFINISHED}*"):
        if time.time() - left.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)
