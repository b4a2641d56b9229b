"""Files in the older format of TensorFlow Datasets, which cannot be read at random: how to convert them."""

import pathlib

INFO = "dataset_info.json"  # in the folder of every version


def refusal(folder: pathlib.Path) -> str | None:
    """One line about the first file of that format in a folder and the folders in it, where there is one."""
    file = min((path for path in folder.rglob("*.tfrecord*") if path.is_file()), default=None)
    if file is None:
        return None
    return (
        f"{file.parent} holds tfrecord files, such as {file.name}, which cannot be read at random; "
        f"{remedy(file.parent)}"
    )


def remedy(folder: pathlib.Path) -> str:
    """What to do with the files in the folder of one version."""
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
