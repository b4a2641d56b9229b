"""The training stream: a source's examples, shuffled every epoch, augmented, tokenised and batched.

Example g of the stream (its *global index*) is a function of the source, the seed and g alone: order and
randomness depend neither on the number of reader threads nor on the number of processes, and a run goes on
exactly where it stopped from one integer, the global index of its next example. `replacing` keeps this so
where an example cannot be read.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mmjax.data import BadExample, Batch, Source, geometry, replacing, texts
from mmjax.data.captions import FirstCaption
from mmjax.data.replacing import Replaced
from mmjax.data.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """What is trained on and how it is read."""

    train: Source
    batch_size: int  # examples of one step, over all devices of all processes
    geometry: tuple[Callable, ...]  # on the host, in order; the last fixes the size
    captions: Callable = FirstCaption()  # which of an example's texts is its caption
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
class _Prepare:
    """One example of the source as the arrays that a batch stacks."""

    data: Data
    tokenizer: Tokenizer | None
    labels: Callable[[dict[str, Any]], np.ndarray] | None
    pictures: bool
    replaced: Replaced

    def __call__(self, turn: tuple[int, int], rng: np.random.Generator):
        index, number = turn
        arrays, bad = replacing.read(
            lambda number: self._arrays(number, rng),
            number,
            size=len(self.data.train),
            seed=self.data.seed,
            index=index,
        )
        if bad:
            self.replaced.note(index, bad)
        return arrays

    def _arrays(self, number: int, rng: np.random.Generator):
        example = self.data.train[number] if self.pictures else texts(self.data.train, number)
        arrays = {"id": np.int32(example["id"])}
        if self.tokenizer is not None:
            arrays["text"] = self.tokenizer([self.data.captions(example, rng)])[0]
        if self.labels is not None:
            arrays["label"] = self.labels(example)
        if self.pictures:
            arrays["image"] = geometry.apply(self.data.geometry, example["image"], rng)
        return arrays


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
    """Channels of the pictures that the stream gives, from the first example that can be read."""

    def read(number):
        picture_HWC = data.train[number]["image"]
        return geometry.apply(data.geometry, picture_HWC, np.random.default_rng(0)).shape[-1]

    return replacing.read(read, 0, size=len(data.train), seed=data.seed, index=0)[0]


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
    labels: Callable[[dict[str, Any]], np.ndarray] | None = None,
    pictures: bool = True,
    start: int = 0,
    process: int = 0,
    processes: int = 1,
) -> Batches:
    """This process's rows of every batch from global index `start` on, without end.

    Args:
        tokenizer: of the captions; None leaves `text` out.
        labels: the array `label` of an example; None leaves it out.
        pictures: False leaves `image` out, and reads none.

    Raises:
        ValueError: the source is smaller than one batch; `batch_size` does not divide over the processes;
            `start` is not the first example of a batch; grain is not installed.
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
    examples = turns.random_map(_Prepare(data, tokenizer, labels, pictures, replaced))
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
