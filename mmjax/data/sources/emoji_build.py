"""Builds the emoji data set: a TFDS builder that writes ArrayRecord, and its way into the data directory."""

import collections
import contextlib
import dataclasses
import errno
import io
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mmjax.data.sources import emoji_join
from mmjax.data.sources.emoji_fetch import fetch, read_json
from mmjax.data.sources.emoji_join import Concept, Drawing
from mmjax.data.sources.emoji_render import crop_all
from mmjax.data.sources.emoji_styles import Collection

log = logging.getLogger("mmjax")

LICENCES_FILE = "LICENCES.txt"
MAX_FAILED = 0.01  # share of one style's drawings that may fail to render

_UNFINISHED = ".building-"
_ABANDONED_S = 24 * 3600.0

Record = dict[str, Any]


def build(collection: Collection, px: int, *, folder: Path, downloads: Path) -> None:
    """Builds the data set so that `folder` appears whole or not at all.

    Several processes may build the same folder at once: the first to finish wins, the others discard theirs.

    Raises:
        ValueError: a package or room on the disk is missing, or too many drawings do not render.
    """
    with _room(folder):
        archives = fetch(collection.packages, downloads)
        records = split_records(collection, archives, px)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        # In the same folder, so on the same disk, where a rename is atomic.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_UNFINISHED) as scratch:
            built = _write(
                EmojiConfig(name=f"{px}px", collection=collection, px=px, records=records), scratch
            )
            names = names_by_language(archives[collection.names.name])
            (built / emoji_join.NAMES_FILE).write_text(json.dumps(names), encoding="utf-8")
            (built / LICENCES_FILE).write_text(licences(collection), encoding="utf-8")
            try:
                os.rename(built, folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                log.info("emoji: another process built %s meanwhile", folder)
            else:
                log.info("emoji: built %s", folder)


@dataclasses.dataclass(eq=False, repr=False, kw_only=True)
class EmojiConfig(tfds.core.BuilderConfig):
    collection: Collection
    px: int
    records: Mapping[str, Sequence[Record]]  # by split


class EmojiBuilder(tfds.core.GeneratorBasedBuilder):
    """Records of image (RGBA), text (name, then keywords), id of the concept, and style."""

    VERSION = tfds.core.Version(emoji_join.VERSION)
    name = "emoji"

    def _info(self) -> tfds.core.DatasetInfo:
        px, collection = self.builder_config.px, self.builder_config.collection
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Drawings of emoji in {len(collection.styles)} styles with names and keywords.",
            license=licences(collection),
            features=tfds.features.FeaturesDict(
                {
                    # ArrayRecord's compression makes raw bytes as small as PNG. Without an encoding TFDS
                    # writes a list of integers, which takes ten times as long to build.
                    "image": tfds.features.Tensor(shape=(px, px, 4), dtype=np.uint8, encoding="bytes"),
                    "text": tfds.features.Sequence(tfds.features.Text()),
                    "id": tfds.features.Scalar(dtype=np.int32),
                    "style": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # npm fetched the packages
        return {split: self._generate_examples(split) for split in self.builder_config.records}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, Record]]:
        for record in self.builder_config.records[split]:
            yield f"{record['style']}/{record['id']}", record


def _write(config: EmojiConfig, folder: str) -> Path:
    """Writes the records as ArrayRecord; returns the folder they are in."""
    builder = EmojiBuilder(config=config, data_dir=folder, file_format="array_record")
    tfds.disable_progress_bar()
    # TFDS prints where the data set is to stay, but it is moved.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    return Path(builder.data_dir)


def split_records(collection: Collection, archives: Mapping[str, Path], px: int) -> dict[str, list[Record]]:
    """The records of every split that is not empty.

    Two rules go beyond `emoji_join.split_of`, both counted in the log: a drawing that equals one outside
    `train` pixel by pixel is not trained on, and `val_style` keeps only concepts that are.
    """
    entries = read_json(archives[collection.names.name], r"en/data\.json")["en/data.json"]
    every = emoji_join.concepts(entries)
    drawings = []
    for style in collection.styles:
        files = read_json(archives[style.package.name], r"(icons|chars)\.json")
        joined = emoji_join.join(style.name, files["icons.json"], files.get("chars.json", {}), every)
        log.info("emoji: %s draws %d of %d concepts", style.name, len(joined), len(every))
        drawings += joined
    rendered = _without_failures(drawings, crop_all(drawings, px))

    held_out_styles = {style.name for style in collection.held_out}
    by_split = {split: [] for split in emoji_join.SPLITS}
    for drawing, image in rendered:
        by_split[emoji_join.split_of(drawing, held_out_styles)].append((drawing, image))
    _keep_apart(by_split)
    return {split: _records(split, pairs, every) for split, pairs in by_split.items() if pairs}


def _without_failures(
    drawings: Sequence[Drawing], images: Sequence[np.ndarray | None]
) -> list[tuple[Drawing, np.ndarray]]:
    totals = collections.Counter(drawing.style for drawing in drawings)
    failed = collections.Counter(
        drawing.style for drawing, image in zip(drawings, images, strict=True) if image is None
    )
    for style, count in failed.items():
        log.warning("emoji: %d of %d drawings of %s did not render", count, totals[style], style)
        if count > MAX_FAILED * totals[style]:
            raise ValueError(
                f"{count} of {totals[style]} drawings of {style} did not render, more than {MAX_FAILED:.0%}; "
                "try another version of resvg-py"
            )
    return [(drawing, image) for drawing, image in zip(drawings, images, strict=True) if image is not None]


def _keep_apart(by_split: dict[str, list[tuple[Drawing, np.ndarray]]]) -> None:
    """Removes what `train` shares with another split, then what `val_style` shows and `train` does not."""
    elsewhere = {
        image.tobytes() for split, pairs in by_split.items() if split != "train" for _, image in pairs
    }
    train = [pair for pair in by_split["train"] if pair[1].tobytes() not in elsewhere]
    log.info(
        "emoji: %d drawings are not trained on, for they equal one of another split",
        len(by_split["train"]) - len(train),
    )
    seen = {drawing.concept.id for drawing, _ in train}
    val_style = [pair for pair in by_split["val_style"] if pair[0].concept.id in seen]
    log.info(
        "emoji: %d drawings of val_style have no style in train", len(by_split["val_style"]) - len(val_style)
    )
    by_split |= {"train": train, "val_style": val_style}


def _records(
    split: str, pairs: Sequence[tuple[Drawing, np.ndarray]], every: Sequence[Concept]
) -> list[Record]:
    held_out_names = {concept.name.lower() for concept in every if concept.held_out and not concept.flag}
    records = []
    for drawing, image in pairs:
        concept = drawing.concept
        keywords = concept.keywords
        if split == "train":
            keywords = emoji_join.train_keywords(concept, held_out_names)
        text = (concept.name, *keywords)
        records.append({"image": image, "text": text, "id": concept.id, "style": drawing.style})
    return records


def names_by_language(archive: Path) -> dict[str, dict[int, str]]:
    """Name of every concept by id, in every language of emojibase."""
    files = read_json(archive, r"[\w-]+/data\.json")
    ids = {concept.code: concept.id for concept in emoji_join.concepts(files["en/data.json"])}
    names = {}
    for path, entries in files.items():
        coded = ((emoji_join.bare_code(entry["hexcode"]), entry["label"]) for entry in entries)
        names[path.split("/")[0]] = {ids[code]: label for code, label in coded if code in ids}
    return names


def licences(collection: Collection) -> str:
    """The text of `LICENCES.txt`: a paragraph a package."""
    heading = (
        "The drawings of this data set were rendered from the icon sets below and cropped; the texts are the "
        "names and keywords below.\n"
    )
    paragraphs = (
        f"{package.spec}\n  licence: {package.licence}\n  author: {package.author}\n  {package.homepage}\n"
        for package in collection.packages
    )
    return "\n".join((heading, *paragraphs))


@contextlib.contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Refuses to start on a disk that is nearly full, and says so in one line if it fills up meanwhile."""
    needed_mb = 100  # archives 20 MB, records 20 MB at 64 px, 60 MB at 160 px
    disk = next(parent for parent in folder.parents if parent.exists())
    remedy = "free some, or set data_dir or MMJAX_DATA_DIR to another disk"
    free_mb = shutil.disk_usage(disk).free // 10**6
    if free_mb < needed_mb:
        raise ValueError(
            f"the emoji data set needs {needed_mb} MB in {disk}, {free_mb} MB are free; {remedy}"
        )
    try:
        yield
    except (OSError, RuntimeError) as error:  # ArrayRecord's writer raises RuntimeError
        if not any(os.strerror(code) in str(error) for code in (errno.ENOSPC, errno.EDQUOT)):
            raise
        raise ValueError(
            f"no space left in {disk} for the emoji data set, which needs {needed_mb} MB; {remedy}"
        ) from error


def _remove_abandoned(folder: Path) -> None:
    """Removes what a killed build left behind; a day old, so that no other process is still at it."""
    for left in folder.glob(f"{_UNFINISHED}*"):
        if time.time() - left.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)
