"""A user's own data, made by a test: pictures of one shape on a wall, in all the forms that are read."""

import csv
import functools
import itertools
import json
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw

from mmjax.data.sources.held_out import held_out

WALLS = {
    "snow": (250, 250, 250),
    "night": (5, 5, 20),
    "grass": (60, 160, 60),
    "sand": (225, 200, 140),
    "ocean": (20, 60, 160),
    "brick": (150, 60, 40),
    "lilac": (200, 160, 220),
    "fog": (140, 140, 140),
}
PAINTS = {
    "red": (230, 20, 20),
    "green": (0, 255, 0),
    "blue": (30, 30, 255),
    "yellow": (255, 240, 0),
    "cyan": (0, 240, 240),
    "magenta": (250, 0, 250),
    "orange": (255, 140, 0),
    "black": (0, 0, 0),
}
# Corners in a square of side 1: shapes that stay themselves when they are mirrored and cropped a little.
SHAPES = {
    "square": [[(0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9)]],
    "triangle": [[(0.5, 0.05), (0.95, 0.95), (0.05, 0.95)]],
    "funnel": [[(0.05, 0.05), (0.95, 0.05), (0.5, 0.95)]],
    "diamond": [[(0.5, 0.0), (1.0, 0.5), (0.5, 1.0), (0.0, 0.5)]],
    "plank": [[(0.0, 0.38), (1.0, 0.38), (1.0, 0.62), (0.0, 0.62)]],
    "pole": [[(0.38, 0.0), (0.62, 0.0), (0.62, 1.0), (0.38, 1.0)]],
    "twins": [[(0, 0.3), (0.4, 0.3), (0.4, 0.7), (0, 0.7)], [(0.6, 0.3), (1, 0.3), (1, 0.7), (0.6, 0.7)]],
    "ladder": [[(0, y), (1, y), (1, y + 0.12), (0, y + 0.12)] for y in (0.05, 0.32, 0.59, 0.86)],
}


def things(count):
    """(file name, caption, picture) of `count` different pictures, in order of their names."""
    every = list(itertools.product(SHAPES, PAINTS, WALLS))
    for number, chosen in enumerate(np.random.default_rng(0).permutation(len(every))[:count]):
        shape, paint, wall = every[chosen]
        yield f"{number:04d}.jpg", f"a {paint} {shape} in the {wall}", _drawn(shape, paint, wall)


def _drawn(shape, paint, wall, side=64):
    image = Image.new("RGB", (side + 16, side), WALLS[wall])
    for corners in SHAPES[shape]:
        ImageDraw.Draw(image).polygon(
            [(16 + x * side * 0.75, side * 0.125 + y * side * 0.75) for x, y in corners], PAINTS[paint]
        )
    return image


def write_pictures(folder: pathlib.Path, count: int) -> list[tuple[str, str]]:
    """Saves the pictures; returns (file name, caption) of each."""
    folder.mkdir(parents=True)
    captions = []
    for name, caption, image in things(count):
        image.save(folder / name, quality=92)
        captions.append((name, caption))
    return captions


def pairs(folder: pathlib.Path, count: int) -> str:
    for name, caption in write_pictures(folder, count):
        (folder / name).with_suffix(".txt").write_text(f"{caption}\n")
    return str(folder)


def table_csv(folder: pathlib.Path, count: int) -> str:
    captions = write_pictures(folder, count)
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "caption"), *reversed(captions)])
    return str(folder)


def table_jsonl(folder: pathlib.Path, count: int) -> str:
    records = [{"file_name": name, "caption": caption} for name, caption in write_pictures(folder, count)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(folder)


class Own(tfds.core.GeneratorBasedBuilder):
    """The same pictures, in the splits that a folder's hash makes."""

    VERSION = tfds.core.Version("1.0.0")
    name = "own"
    pictures: pathlib.Path
    captions: list[tuple[str, str]]

    def _info(self):
        features = {"image": tfds.features.Image(encoding_format="jpeg"), "caption": tfds.features.Text()}
        # As they are written, so that their order is a folder's.
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split == "validation") for split in ("train", "validation")}

    def _generate_examples(self, validates):
        for number, (name, caption) in enumerate(self.captions):
            if held_out(name.removesuffix(".jpg"), 0.05) == validates:
                yield number, {"image": str(self.pictures / name), "caption": caption}


def as_tfds(folder: pathlib.Path, count: int) -> str:
    Own.pictures = folder / "pictures"
    Own.captions = write_pictures(Own.pictures, count)
    builder = Own(data_dir=folder, file_format="array_record")
    tfds.disable_progress_bar()
    builder.download_and_prepare()
    return f"tfds:{builder.data_dir}"


FORMS = {"pairs": pairs, "csv": table_csv, "jsonl": table_jsonl, "tfds": as_tfds}


@functools.cache
def captions(count: int) -> tuple[str, ...]:
    return tuple(caption for _, caption, _ in things(count))
