"""A handful of examples of each class of another source: what few-shot training sees."""

import contextlib
import dataclasses
import functools
from typing import Any

import numpy as np

from mmjax.data import BadExample, Source, texts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Few:
    """`each` examples of every id of `source`, drawn by `seed`, in the order of the source.

    Of one seed the examples of a smaller `each` are among those of a larger one.
    """

    source: Source
    each: int
    seed: int = 0

    def __post_init__(self):
        if self.each < 1:
            raise ValueError(f"each={self.each} must be at least 1")

    def prepare(self) -> None:
        """Raises ValueError where a class has fewer examples than are to be drawn."""
        self.source.prepare()
        len(self)

    def __len__(self) -> int:
        return len(self._index_N)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[self._index_N[index]]

    def texts(self, index: int) -> dict[str, Any]:
        """The example without its picture."""
        return texts(self.source, self._index_N[index])

    @property
    def names(self) -> dict[int, str]:
        return self.source.names

    @property
    def licence(self) -> str:
        return self.source.licence

    @functools.cached_property
    def _index_N(self) -> list[int]:
        by_id: dict[int, list[int]] = {id_: [] for id_ in sorted(self.source.names)}
        for index in range(len(self.source)):
            with contextlib.suppress(BadExample):
                by_id.setdefault(int(texts(self.source, index)["id"]), []).append(index)
        for id_, found in by_id.items():
            if len(found) < self.each:
                raise ValueError(
                    f"class {self.source.names.get(id_, id_)!r} has {len(found)} examples, wanted are "
                    f"each={self.each}; ask for fewer"
                )
        random = np.random.default_rng(self.seed)
        drawn = [random.permutation(found)[: self.each] for found in by_id.values()]
        return sorted(int(index) for index in np.concatenate(drawn)) if drawn else []

    def __getstate__(self) -> dict[str, Any]:
        # Fields only: a worker process draws the same examples itself.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
