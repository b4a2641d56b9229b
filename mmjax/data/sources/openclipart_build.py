"""Builds the data set of clip art: the package's drawings, rendered and dealt to the splits."""

import logging
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from mmjax.data.sources import debian, drawings_build, openclipart_read, openclipart_split, rendering
from mmjax.data.sources.drawings_build import DrawingsConfig, Record
from mmjax.data.sources.openclipart_read import Clip
from mmjax.data.sources.openclipart_render import Rendered, render

log = logging.getLogger("mmjax")

PACKAGE = "openclipart-svg"
SHA256 = "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5"  # 1:0.18+dfsg-19
LICENCE = (
    "Drawings of the Open Clip Art Library, from Debian's package openclipart-svg. Each file dedicates "
    "itself to the public domain; those that do not were left out. They were rendered and cropped."
)

_SVG = "usr/share/openclipart/svg"


def build(px: int, *, folder: Path, downloads: Path) -> None:
    """Builds the data set so that `folder` appears whole or not at all: some minutes on two cores.

    Raises:
        ValueError: the package, or room on the disk, is missing.
    """
    # The package 25 MB and 180 MB unpacked, records 20 MB at 64 px, 50 MB at 160 px.
    with drawings_build.room(folder, what="the clip art", needed_mb=300):
        package = debian.package(
            PACKAGE,
            downloads,
            sha256=SHA256,
            what="the clip art",
            otherwise=f"build it on Debian and copy {folder} here",
        )
        with drawings_build.scratch(folder) as scratch:
            unpacked, written = Path(scratch) / "package", Path(scratch) / "records"
            debian.unpack(package, str(unpacked))
            if not (unpacked / _SVG).is_dir():
                raise debian.damaged(package, f"it has no folder {_SVG}")
            config = DrawingsConfig(
                name=f"{px}px",
                description="Clip art of the public domain with titles and keywords.",
                px=px,
                also={
                    "kinds": tfds.features.Sequence(tfds.features.Text()),
                    "folder": tfds.features.Text(),
                },
                licence=LICENCE,
                records=split_records(unpacked / _SVG, px),
            )
            drawings_build.appear(drawings_build.write(config, str(written)), folder, what="openclipart")


def split_records(folder: Path, px: int) -> dict[str, dict[str, Record]]:
    """The records of every split that is not empty, by the drawings' paths."""
    clips = openclipart_read.clips(folder)
    paths = [str(folder / clip.path) for clip in clips]
    rendered = rendering.on_all_cores(render, paths, px, what="openclipart")
    shown = [(clip, made) for clip, made in zip(clips, rendered, strict=True) if made is not None]
    kept = openclipart_split.first_of_each(
        [clip.path for clip, _ in shown], [made.digest for _, made in shown]
    )
    log.info("openclipart: left out %d files: nothing to be seen", len(clips) - len(shown))
    log.info("openclipart: left out %d files: copies", len(shown) - len(kept))
    return _dealt([shown[number] for number in kept])


def _dealt(drawings: Sequence[tuple[Clip, Rendered]]) -> dict[str, dict[str, Record]]:
    captions = [clip.texts[0].casefold() for clip, _ in drawings]
    names = [clip.name for clip, _ in drawings]
    group_of = openclipart_split.groups(captions, names, [made.dhash for _, made in drawings])
    id_of = {caption: id_ for id_, caption in enumerate(sorted(set(captions)))}
    found = {split: {} for split in openclipart_split.SPLITS}
    for (clip, made), caption, group in zip(drawings, captions, group_of, strict=True):
        found[openclipart_split.split_of(drawings[group][0].path)][clip.path] = {
            "image": made.image_HWC,
            "text": clip.texts,
            "kinds": clip.kinds,
            "id": id_of[caption],
            "folder": clip.folder,
        }
    log.info(
        "openclipart: %d drawings in %d groups; %s",
        len(drawings),
        len(set(group_of)),
        ", ".join(f"{split} {len(records)}" for split, records in found.items()),
    )
    return {split: records for split, records in found.items() if records}
