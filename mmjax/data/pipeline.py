"""The training stream: a source's examples, shuffled every epoch, augmented, tokenised and batched.

Example g of the stream (its *global index*) is a function of the source, the seed and g alone: order and
randomness depend neither on the number of reader threads nor on the number of processes, and a run goes on
exactly where it stopped from one integer, the global index of its next example. `replacing` keeps this so
where an example cannot be read.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.data import BadExample, Batch, Source, geometry, preparing, texts
from mmjax.data.captions import FirstCaption
from mmjax.data.fields import Field
from mmjax.data.replacing import Replaced
from mmjax.data.tokenizers import Tokenizer

_OWN = ("image", "text", "id", "hard_text")  # arrays of a batch that are no fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """What is trained on and how it is read."""

    train: Source
    batch_size: int  # examples of one step, over all devices of all processes
    geometry: tuple[Callable, ...] = ()  # of pictures, on the host, in order; the last fixes the size
    captions: Callable = FirstCaption()  # which of an example's texts is its caption
    fields: dict[str, Field] = dataclasses.field(default_factory=dict)  # further arrays of an example
    may_lack: tuple[str, ...] = ()  # of "image", "text" and the fields, what an example may do without
    hard_texts: int = 0  # hard negatives of each example, of its `hard_text`; random ones where it has more
    together: int = 1  # consecutive examples of the source in one batch, as hard negatives of each other
    seed: int = 0
    threads: int = 2  # reader threads a process
    ahead: int = 8  # batches read ahead
    most_replaced: float = 0.01  # share of the examples that may be unreadable; above it the run stops

    def __post_init__(self):
        if not 0 <= self.most_replaced <= 1:
            raise ValueError(f"most_replaced={self.most_replaced} is a share; use a value in [0, 1]")
        if self.threads < 1 or self.ahead < 1:
            raise ValueError(f"threads={self.threads} and ahead={self.ahead} must be at least 1")
        if self.together < 1 or self.batch_size % self.together:
            raise ValueError(f"together={self.together} must divide batch_size={self.batch_size}")
        if self.hard_texts < 0:
            raise ValueError(f"hard_texts={self.hard_texts} must be 0 or more")
        taken = [name for name in self.fields if name in _OWN or name.startswith("present/")]
        if taken:
            raise ValueError(f"fields={taken}: the batch has these names already; choose others")
        unknown = set(self.may_lack) - {"image", "text", *self.fields}
        if unknown:
            raise ValueError(f"may_lack={sorted(unknown)} are none of image, text and {[*self.fields]}")


@dataclasses.dataclass(frozen=True)
class _Turns:
    """Whose turn it is at each global index: numbers of examples, in shuffled groups, epoch after epoch."""

    groups: Sequence[int]  # without end
    together: int

    def __len__(self):
        return len(self.groups)

    def __getitem__(self, index):
        group, member = divmod(index, self.together)
        return index, self.groups[group] * self.together + member


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The rows of every global batch that one process feeds: contiguous, as its devices lie in the mesh."""

    examples: object  # the whole stream, by global index
    batch_size: int
    process: int
    processes: int

    def __len__(self):
        return len(self.examples) // self.batch_size * (self.batch_size // self.processes)

    def __getitem__(self, index):
        batch, row = divmod(index, self.batch_size // self.processes)
        return self.examples[self.of_batch(batch)[row]]

    def of_batch(self, batch: int) -> range:
        """Global indices of this process's rows of a batch."""
        rows = self.batch_size // self.processes
        first = batch * self.batch_size + self.process * rows
        return range(first, first + rows)


class Batches:
    """One process's rows of every batch, without end; `replaced` counts what was handed out."""

    def __init__(self, batches: Iterator[Batch], rows: _Rows, start: int, replaced: Replaced):
        self._batches, self._rows, self._next = batches, rows, start
        self.replaced = replaced

    def __iter__(self):
        return self

    def __next__(self) -> Batch:
        """Raises ValueError where too many examples could not be read."""
        batch = next(self._batches)
        self.replaced.hand_out(self._rows.of_batch(self._next))
        self._next += 1
        return batch


def size(data: Data) -> tuple[int, int]:
    """Height and width of the pictures that `data.geometry` ends with."""
    picture_HWC = np.zeros((64, 64, 3), np.uint8)
    return geometry.apply(data.geometry, picture_HWC, np.random.default_rng(0)).shape[:2]


def check_size(data: Data, wanted: int):
    """Raises ValueError unless `data.geometry` ends with pictures of `wanted` x `wanted` pixels."""
    height, width = size(data)
    if (height, width) != (wanted, wanted):
        raise ValueError(
            f"data.geometry ends with pictures of {height}x{width} pixels, but preprocess.size={wanted}; "
            "give both the same size"
        )


def channels(data: Data) -> int:
    """Channels of the pictures that the stream gives, from the first example that has one."""
    return preparing.first_picture(data).shape[-1]


def captions(data: Data, *, limit: int, seed: int) -> list[str]:
    """Captions as training draws them, of at most `limit` examples evenly apart; no picture is decoded."""
    rng, size = np.random.default_rng(seed), len(data.train)
    found = []
    for number in np.arange(min(size, limit)) * size // min(size, limit):
        with contextlib.suppress(BadExample):
            found.append(data.captions(texts(data.train, int(number)), rng))
    return found


def batches(
    data: Data,
    tokenizer: Tokenizer | None,
    *,
    modalities: Collection[str] = ("image", "text"),
    labels: Mapping[str, Callable[[dict[str, Any]], np.ndarray]] | None = None,
    start: int = 0,
    process: int = 0,
    processes: int = 1,
) -> Batches:
    """This process's rows of every batch from global index `start` on, without end.

    Args:
        data: what is read.
        tokenizer: for "text"; None where that is no modality.
        modalities: "image" and "text" are prepared where they are among these, `data.fields` always.
        labels: the arrays `label/<task>` of an example, by task; None for none.
        start, process, processes: where the stream begins, and whose rows.

    Raises:
        ValueError: the source is smaller than one batch, or its first example is not what `data` says;
            `batch_size` does not divide over the processes; `start` is not the first example of a batch;
            grain is not installed.
    """
    if len(data.train) < data.batch_size:
        raise ValueError(
            f"batch_size={data.batch_size}, but the training data has {len(data.train)} examples; "
            "set data.batch_size to no more"
        )
    if data.batch_size % processes:
        raise ValueError(
            f"batch_size={data.batch_size} does not divide over {processes} processes; "
            f"use a multiple of {processes}"
        )
    if start % data.batch_size:
        raise ValueError(f"start={start} is not a multiple of batch_size={data.batch_size}")
    grain = _grain()
    groups = grain.MapDataset.range(len(data.train) // data.together).seed(data.seed).shuffle().repeat(None)
    replaced = Replaced(most=data.most_replaced, epoch=-(-len(data.train) // processes))
    turns = grain.MapDataset.source(_Turns(groups, data.together)).seed(data.seed)
    if data.fields or data.hard_texts:
        preparing.check_first(data)
    blank_HWC = np.zeros_like(preparing.first_picture(data)) if "image" in modalities else None
    tokenizer = tokenizer if "text" in modalities else None
    examples = turns.random_map(preparing.Prepare(data, tokenizer, blank_HWC, labels or {}, replaced))
    rows = _Rows(examples, data.batch_size, process, processes)
    options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.ahead)
    stacked = grain.MapDataset.source(rows).batch(data.batch_size // processes, drop_remainder=True)
    iterator = iter(stacked.to_iter_dataset(options))
    iterator.set_state({"next_index": start // data.batch_size})
    return Batches(iterator, rows, start // data.batch_size, replaced)


def _grain():
    try:
        import grain
    except ImportError:
        raise ValueError("the training stream needs grain: pip install grain") from None
    return grain
