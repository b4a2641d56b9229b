"""Folders of pictures that tests make and read."""

import pytest
from PIL import Image

from mmjax.data.sources.folder import Folder


def picture(path, colour=(10, 20, 30), size=(6, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def pictures(root, *names):
    for name in names:
        picture(root / name)


def everything(root, **fields):
    """The texts and kinds of all that is read of a folder, by picture."""
    folder = Folder(path=str(root), split="all", **fields)
    folder.prepare()
    return [folder.texts(index) for index in range(len(folder))]


def refused(root, **fields):
    with pytest.raises(ValueError) as error:
        Folder(path=str(root), split="all", **fields).prepare()
    assert "\n" not in str(error.value)
    return str(error.value)
