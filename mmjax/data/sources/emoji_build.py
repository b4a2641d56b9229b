"""Builds the emoji data set: which drawing is in which split, with which texts."""

import collections
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from mmjax.data.sources import drawings_build, emoji_join, rendering
from mmjax.data.sources.drawings_build import DrawingsConfig, Record
from mmjax.data.sources.emoji_fetch import fetch, read_json
from mmjax.data.sources.emoji_join import Concept, Drawing
from mmjax.data.sources.emoji_render import crop
from mmjax.data.sources.emoji_styles import Collection

log = logging.getLogger("mmjax")

MAX_FAILED = 0.01  # share of one style's drawings that may fail to render


def build(collection: Collection, px: int, *, folder: Path, downloads: Path) -> None:
    """Builds the data set so that `folder` appears whole or not at all.

    Several processes may build the same folder at once: the first to finish wins, the others discard theirs.

    Raises:
        ValueError: a package or room on the disk is missing, or too many drawings do not render.
    """
    # Archives 20 MB, records 20 MB at 64 px, 60 MB at 160 px.
    with drawings_build.room(folder, what="the emoji data set", needed_mb=100):
        archives = fetch(collection.packages, downloads)
        config = DrawingsConfig(
            name=f"{px}px",
            description=f"Drawings of emoji in {len(collection.styles)} styles with names and keywords.",
            px=px,
            also={"style": tfds.features.Text()},
            licence=licences(collection),
            records=split_records(collection, archives, px),
        )
        with drawings_build.scratch(folder) as scratch:
            built = drawings_build.write(config, scratch)
            names = names_by_language(archives[collection.names.name])
            (built / emoji_join.NAMES_FILE).write_text(json.dumps(names), encoding="utf-8")
            drawings_build.appear(built, folder, what="emoji")


def split_records(
    collection: Collection, archives: Mapping[str, Path], px: int
) -> dict[str, dict[str, Record]]:
    """The records of every split that is not empty, by style and concept.

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
    rendered = _without_failures(drawings, rendering.on_all_cores(crop, drawings, px, what="emoji"))

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
) -> dict[str, Record]:
    held_out_names = {concept.name.lower() for concept in every if concept.held_out and not concept.flag}
    records = {}
    for drawing, image in pairs:
        concept = drawing.concept
        keywords = concept.keywords
        if split == "train":
            keywords = emoji_join.train_keywords(concept, held_out_names)
        text = (concept.name, *keywords)
        records[f"{drawing.style}/{concept.id}"] = {
            "image": image,
            "text": text,
            "id": concept.id,
            "style": drawing.style,
        }
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
