"""The training stream: a source's examples, shuffled every epoch, augmented, tokenised and batched.

Example g of the stream (its *global index*) is a function of the source, the seed and g alone: order and
randomness depend neither on the number of reader threads nor on the number of processes, and a run goes on
exactly where it stopped from one integer, the global index of its next example.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mmjax.data import Batch, Source, geometry
from mmjax.data.captions import FirstCaption
from mmjax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """What is trained on and how it is read."""

    train: Source
    batch_size: int  # examples of one step, over all devices of all processes
    geometry: tuple[Callable, ...]  # on the host, in order; the last fixes the size
    captions: Callable = FirstCaption()  # which of an example's texts is its caption
    together: int = (
        1  # consecutive examples of the source that share a batch, as hard negatives of each other
    )
    seed: int = 0
    threads: int = 2  # reader threads a process
    ahead: int = 8  # batches read ahead

    def __post_init__(self):
        if self.threads < 1 or self.ahead < 1:
            raise ValueError(f"threads={self.threads} and ahead={self.ahead} must be at least 1")
        if self.together < 1 or self.batch_size % self.together:
            raise ValueError(f"together={self.together} must divide batch_size={self.batch_size}")


@dataclasses.dataclass(frozen=True)
class _Prepare:
    """One example of the source as the arrays that a batch stacks."""

    data: Data
    tokenizer: Tokenizer

    def __call__(self, example, rng: np.random.Generator):
        caption = self.data.captions(example["text"], rng)
        return {
            "image": geometry.apply(self.data.geometry, example["image"], rng),
            "text": self.tokenizer([caption])[0],
            "id": np.int32(example["id"]),
        }


@dataclasses.dataclass(frozen=True)
class _Shuffled:
    """The examples of the source in the order of shuffled groups, epoch after epoch, by global index."""

    source: Source
    groups: Sequence[int]  # without end
    together: int

    def __len__(self):
        return len(self.groups)

    def __getitem__(self, index):
        group, member = divmod(index, self.together)
        return self.source[self.groups[group] * self.together + member]


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
        return self.examples[
            batch * self.batch_size + self.process * (self.batch_size // self.processes) + row
        ]


def check_size(data: Data, size: int):
    """Raises ValueError unless `data.geometry` ends with pictures of `size` x `size` pixels."""
    picture_HWC = np.zeros((64, 64, 3), np.uint8)
    height, width, _ = geometry.apply(data.geometry, picture_HWC, np.random.default_rng(0)).shape
    if (height, width) != (size, size):
        raise ValueError(
            f"data.geometry ends with pictures of {height}x{width} pixels, but preprocess.size={size}; "
            "give both the same size"
        )


def batches(
    data: Data, tokenizer: Tokenizer, *, start: int = 0, process: int = 0, processes: int = 1
) -> Iterator[Batch]:
    """This process's rows of every batch from global index `start` on, without end.

    Raises:
        ValueError: the source is smaller than one batch; `batch_size` does not divide over the processes;
            `start` is not the first example of a batch; grain is not installed.
    """
    if len(data.train) < data.batch_size:
        raise ValueError(
            f"batch_size={data.batch_size}, but the training data has {len(data.train)} examples"
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
    shuffled = _Shuffled(data.train, groups, data.together)
    examples = grain.MapDataset.source(shuffled).seed(data.seed).random_map(_Prepare(data, tokenizer))
    rows = grain.MapDataset.source(_Rows(examples, data.batch_size, process, processes))
    options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.ahead)
    iterator = iter(rows.batch(data.batch_size // processes, drop_remainder=True).to_iter_dataset(options))
    iterator.set_state({"next_index": start // data.batch_size})
    return iterator


def _grain():
    try:
        import grain
    except ImportError:
        raise ValueError("the training stream needs grain: pip install grain") from None
    return grain
