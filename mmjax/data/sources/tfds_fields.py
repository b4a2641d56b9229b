"""Which fields of a TFDS data set are pictures and texts, and what they hold in a record.

`features` is the module `tensorflow_datasets.features`, which is not there on every machine.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

# What fields of texts are called, in order of preference; others are taken where they are the only one.
CAPTION = ("caption", "captions", "captions/text", "text", "texts", "title", "description")


class Fields(NamedTuple):
    """Paths of the fields that are read: captions, or a label where there are none."""

    image: str | None
    captions: tuple[str, ...]
    label: str | None


def choose(data_set: str, features: Any, leaves: dict[str, Any], wanted: Fields) -> Fields:
    """`wanted`, with what it leaves open taken from the features by kind and name.

    Raises:
        ValueError: there is no such field, or nothing tells which to take; lists those there are.
    """
    for name in (wanted.image, wanted.label, *wanted.captions):
        if name is not None and name not in leaves:
            raise ValueError(f"{data_set} has no field {name!r}; it has {', '.join(leaves)}")
    images, labels, texts = (
        [name for name, leaf in leaves.items() if isinstance(leaf, kind)]
        for kind in (features.Image, features.ClassLabel, features.Text)
    )
    if wanted.image is None and len(images) != 1:
        raise ValueError(
            f"{data_set} has {len(images)} fields of pictures; say image=NAME of {', '.join(leaves)}"
        )
    image = wanted.image or images[0]
    usual = [name for name in CAPTION if name in texts]
    usual += [name for name in texts if name.partition("/")[0] in CAPTION and name not in usual]
    if wanted.captions or (usual and wanted.label is None):
        return Fields(image, wanted.captions or tuple(usual), None)
    if wanted.label or len(labels) == 1:
        return Fields(image, (), wanted.label or labels[0])
    if len(texts) == 1:
        return Fields(image, (texts[0],), None)
    raise ValueError(
        f"nothing tells which fields of {data_set} are texts; say captions=(NAME,) or label=NAME of "
        f"{', '.join(leaves)}"
    )


def leaves(features: Any, feature: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, feature) of all that is no dict and no sequence; a sequence has the path of what it holds."""
    if isinstance(feature, features.FeaturesDict):
        for name, inner in sorted(feature.items()):
            yield from leaves(features, inner, f"{path}/{name}" if path else name)
    elif isinstance(feature, features.Sequence) and not isinstance(feature.feature, features.Image):
        yield from leaves(features, feature.feature, path)
    else:
        yield path, feature


def value(record: dict[str, Any], path: str) -> Any:
    """What a record holds at `path`; a sequence of dicts comes as a dict of sequences."""
    for step in path.split("/"):
        record = record[step]
    return record


def strings(found: Any) -> Iterator[str]:
    """Every text in a string or in sequences of them, words separated by one space."""
    if isinstance(found, (bytes, str)):
        text = found.decode("utf-8", "replace") if isinstance(found, bytes) else found
        yield " ".join(text.split())
    else:
        for inner in found:
            yield from strings(inner)


def spaced(name: str) -> str:
    """The name of a class as a text."""
    return " ".join(name.replace("_", " ").split())
