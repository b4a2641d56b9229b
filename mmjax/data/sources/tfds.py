"""Any data set of TensorFlow Datasets that lies in ArrayRecord files, read without TensorFlow.

Its fields become an image and texts: `docs/data.md`.
"""

import contextlib
import dataclasses
import functools
import logging
import pathlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from mmjax.data import MAX_CAPTION, BadExample, decode
from mmjax.data.geometry import WHITE
from mmjax.data.sources import tfrecords
from mmjax.data.sources.held_out import held_out
from mmjax.data.sources.kept import Kept
from mmjax.data.sources.tfds_fields import Fields, choose, leaves, spaced, strings, value

log = logging.getLogger("mmjax")

_VAL = ("val", "valid", "validation", "dev", "test")  # the first that is there validates


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tfds:
    """One split of a data set. Pictures are RGB: what is transparent is put on white.

    A field is a path such as `captions/text`, and the kind of its texts. An `id` stands for a class, or for a
    record.
    """

    name: str  # `name`, `name/config:version`, or the folder of one version
    data_dir: str | None = None  # None: $TFDS_DATA_DIR, or tensorflow_datasets in the home folder
    split: str = "train"  # as TFDS writes it: "train", "train[:10%]"
    part: Literal["all", "train", "val"] = "all"  # of the split: without, or only, those held out by hash
    val_share: float = 0.05
    image: str | None = None  # field with pictures; None takes the only one
    captions: tuple[str, ...] = ()  # fields with texts; () looks for usual names
    label: str | None = None  # field with a class; None takes it where there are no texts
    side: int | None = 256  # pixels; pictures with a longer shorter side are shrunk to it when they are read
    memory_mb: int = 1_000  # for pictures that are kept once they are decoded

    def __post_init__(self):
        if not 0 <= self.val_share < 1:
            raise ValueError(f"val_share={self.val_share} is a share; use a value in [0, 1)")

    def prepare(self) -> None:
        """Opens the data set, and logs what was found.

        Raises:
            ValueError: it is not there or not in ArrayRecord files, or its fields are not pictures and texts.
        """
        if not len(self):
            raise ValueError(f"{self.name} has nothing in {self.part} of {self.split}; use another val_share")
        _ = self._said  # once, though several evaluators may ask

    def __len__(self) -> int:
        return len(self._records if self._numbers is None else self._numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, record = self._record(index)
        image = self._kept.picture(number, lambda: self._picture(number, record))
        return {"image": image, **self._texts(number, record)}

    def texts(self, index: int) -> dict[str, Any]:
        """Example `index` without its picture."""
        return self._texts(*self._record(index))

    @functools.cached_property
    def names(self) -> dict[int, str]:
        """The classes, where a field of classes is read."""
        label = self._fields.label
        return dict(enumerate(map(spaced, self._leaves[label].names))) if label else {}

    @property
    def licence(self) -> str:
        info = self._builder.info
        terms = info.redistribution_info.license if info.redistribution_info else ""
        return f"{info.full_name} of TensorFlow Datasets{f': {terms}' if terms else ''}."

    def resolved(self) -> "Tfds":
        """This source as a run keeps it: of a stated version, with its fields named."""
        if self._is_folder:
            version = str(pathlib.Path(self.name).absolute())
        else:
            version = ":".join(self._builder.info.full_name.rsplit("/", 1))
        fields = self._fields
        return dataclasses.replace(
            self, name=version, image=fields.image, captions=fields.captions, label=fields.label
        )

    def splits(self) -> tuple["Tfds", "Tfds"]:
        """What to train and to validate on: splits of the data set, or parts of its only one by hash."""
        names = list(self._builder.info.splits)
        train = "train" if "train" in names else names[0]
        val = next((name for name in _VAL if name in names and name != train), None)
        if val is None:
            return tuple(dataclasses.replace(self, split=train, part=part) for part in ("train", "val"))
        return dataclasses.replace(self, split=train), dataclasses.replace(self, split=val)

    @property
    def _is_folder(self) -> bool:
        return (pathlib.Path(self.name) / tfrecords.INFO).is_file()

    @functools.cached_property
    def _builder(self):
        tfds = _tfds()
        try:
            if self._is_folder:
                return tfds.builder_from_directory(self.name)
            return tfds.builder(self.name, data_dir=self.data_dir)
        except (tfds.core.DatasetNotFoundError, FileNotFoundError, ValueError) as error:
            refusal = tfrecords.refusal(pathlib.Path(self.name))
            if refusal:
                raise ValueError(refusal) from error
            first, *_ = str(error).splitlines()
            raise ValueError(
                f"the data set tfds:{self.name} cannot be opened: {first} Give its name and data_dir (or "
                "$TFDS_DATA_DIR), or the folder of one version"
            ) from error

    @functools.cached_property
    def _records(self):
        """The records, pictures left encoded."""
        tfds, builder = _tfds(), self._builder
        formats = {str(kind.value) for kind in builder.info.available_file_formats()}
        folder = builder.data_dir
        if not pathlib.Path(folder).is_dir():
            raise ValueError(
                f"the data set {builder.info.full_name} is not in {folder}; build it, where TensorFlow is "
                f"installed: tfds build {builder.name} --file_format=array_record"
            )
        if "array_record" not in formats:
            raise ValueError(
                f"{folder} holds {', '.join(sorted(formats))} files, which cannot be read at random; "
                f"{tfrecords.remedy(pathlib.Path(folder))}"
            )
        decoders: Any = tfds.decode.SkipDecoding()
        for step in reversed(self._fields.image.split("/")):
            decoders = {step: decoders}
        if not isinstance(self._leaves[self._fields.image], tfds.features.Image):
            decoders = None
        try:
            return builder.as_data_source(self.split, decoders=decoders, file_format="array_record")
        except ValueError as error:
            splits = ", ".join(builder.info.splits)
            raise ValueError(f"split={self.split!r} of {folder}: {error}; there are {splits}") from error

    @functools.cached_property
    def _numbers(self) -> np.ndarray | None:
        """Numbers of this part's records; None for all."""
        if self.part == "all":
            return None
        wanted = self.part == "val"
        every = range(len(self._records))
        return np.array([i for i in every if held_out(f"{self.split}/{i}", self.val_share) == wanted])

    @functools.cached_property
    def _leaves(self) -> dict[str, Any]:
        return dict(leaves(_tfds().features, self._builder.info.features))

    @functools.cached_property
    def _fields(self) -> Fields:
        wanted = Fields(self.image, self.captions, self.label)
        return choose(self.name, _tfds().features, self._leaves, wanted)

    def _record(self, index: int) -> tuple[int, dict[str, Any]]:
        number = index if self._numbers is None else int(self._numbers[index])
        return number, self._records[number]

    def _picture(self, number: int, record: dict[str, Any]) -> np.ndarray:
        with self._naming(number):
            return decode.opaque(decode.pixels(value(record, self._fields.image), side=self.side), WHITE)

    def _texts(self, number: int, record: dict[str, Any]) -> dict[str, Any]:
        fields = self._fields
        if fields.label:
            label = int(value(record, fields.label))
            return {"text": (self.names[label],), "kinds": (fields.label,), "id": label}
        pairs = [(text, field) for field in fields.captions for text in strings(value(record, field))]
        texts = tuple((text, field) for text, field in pairs if text and len(text) <= MAX_CAPTION)
        if not texts:
            raise BadExample(
                "long_caption" if any(text for text, _ in pairs) else "no_caption", self._at(number)
            )
        text, kinds = zip(*texts, strict=True)
        return {"text": text, "kinds": kinds, "id": number}

    def _at(self, number: int) -> str:
        return f"{self.name} {self.split}[{number}]"

    @contextlib.contextmanager
    def _naming(self, number: int) -> Iterator[None]:
        try:
            yield
        except BadExample as error:
            raise BadExample(error.reason, self._at(number), str(error)) from error

    @functools.cached_property
    def _kept(self) -> Kept:
        return Kept(self.memory_mb * 10**6)

    @functools.cached_property
    def _said(self) -> None:
        fields, info = self._fields, self._builder.info
        texts = f"classes from {fields.label}" if fields.label else f"texts from {', '.join(fields.captions)}"
        part = "" if self.part == "all" else f", {self.part} by hash, val_share={self.val_share}"
        log.info("%s: %d records of %s%s", info.full_name, len(self), self.split, part)
        log.info("  pictures from %s, %s", fields.image, texts)
        for index in np.linspace(0, len(self) - 1, min(3, len(self))).astype(int):
            with contextlib.suppress(BadExample):
                log.info("  %d: %s", index, " | ".join(self.texts(int(index))["text"][:3])[:200])

    def __getstate__(self) -> dict[str, Any]:
        # Fields only: a worker process opens the data set itself.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def _tfds():
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        package = (error.name or "").replace("_", "-")
        raise ValueError(f"tfds: needs {package}, which is not installed; pip install {package}") from error
    return tfds
