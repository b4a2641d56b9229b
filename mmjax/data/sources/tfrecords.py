"""Files in the older format of TensorFlow Datasets, which cannot be read at random: how to convert them."""

import fnmatch
import pathlib
from collections.abc import Iterable

INFO = "dataset_info.json"  # in every folder of one version


def first(files: Iterable[str]) -> str | None:
    """The first file of that format."""
    return next((name for name in files if fnmatch.fnmatch(pathlib.PurePath(name).name, "*.tfrecord*")), None)


def remedy(folder: pathlib.Path) -> str:
    """What to do with the files in the folder of one version of a data set."""
    convert = (
        f"convert them, where TensorFlow is installed: tfds convert_format --dataset_version_dir={folder} "
        f"--out_file_format=array_record; then give tfds:{folder}"
    )
    if (folder / INFO).is_file():
        return convert
    return (
        f"there is no {INFO} to tell their fields: write it with tfds.folder_dataset.write_metadata, then "
        f"{convert}"
    )


def refusal(file: pathlib.Path) -> str:
    """One line about a file of that format."""
    return (
        f"{file.parent} holds tfrecord files, such as {file.name}, which cannot be read at random; "
        f"{remedy(file.parent)}"
    )
