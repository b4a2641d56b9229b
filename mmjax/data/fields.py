"""Further arrays of an example, beside its picture and its texts: what a config says of them.

Such an array is what a tower encodes (a spectrogram, a point cloud), a teacher's embedding, or a label.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np

from mmjax.data import BadExample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """An array that a source gives with its examples; rows of a batch have one shape and dtype."""

    shape: tuple[int, ...] = ()  # of one example; () is a single number
    dtype: Literal["float32", "float16", "uint8", "int32"] = "float32"

    def __post_init__(self):
        if any(size < 1 for size in self.shape):
            raise ValueError(f"shape={self.shape} must have positive sizes")

    def row(self, value: Any) -> np.ndarray:
        """`value` as a row of a batch; a ValueError says what it is instead."""
        array = np.asarray(value)
        if array.shape != self.shape or not np.can_cast(array.dtype, self.dtype, "same_kind"):
            raise ValueError(f"{array.dtype} {list(array.shape)}, not {self.dtype} {list(self.shape)}")
        return array.astype(self.dtype)

    def blank(self) -> np.ndarray:
        """In place of an array that is not there; a mask beside it says so."""
        return np.zeros(self.shape, self.dtype)


def has(example: Mapping[str, Any], name: str) -> bool:
    """Whether an example has something under this name: None and no text at all are nothing."""
    value = example.get(name)
    return bool(value) if name == "text" else value is not None


def rows(
    fields: Mapping[str, Field], may_lack: Collection[str], example: Mapping[str, Any], where: str
) -> dict[str, np.ndarray]:
    """The further arrays of an example, by name.

    Raises:
        BadExample: one is not as its field says, or is not there and not in `may_lack`; names `where`.
    """
    found = {}
    for name, field in fields.items():
        if has(example, name):
            try:
                found[name] = field.row(example[name])
            except ValueError as error:
                raise BadExample("other_field", where, f"{name}: {error}") from error
        elif name in may_lack:
            found[name] = field.blank()
        else:
            raise BadExample("other_field", where, f"no {name!r}, and data.may_lack does not allow it")
    return found
