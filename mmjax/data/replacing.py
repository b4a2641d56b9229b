"""Bad examples of the training stream: replaced by a rule, counted by reason, and no run of many of them.

What stands in for example g of the stream (its global index) is a function of the source, the seed and g
alone, as example g itself is: neither a resume nor the number of processes changes it.
"""

import collections
import hashlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

from mmjax.data import BadExample

log = logging.getLogger("mmjax")

_TRIES = 20  # source examples for one of the stream
_NAMED = 10  # files that the log names


def read(
    make: Callable[[int], Any], first: int, *, size: int, seed: int, index: int
) -> tuple[Any, list[BadExample]]:
    """`make(first)`, or of the first of the examples after it that can be used, and why those before cannot.

    Args:
        make: makes an example of the stream of the example of the source with this number.
        first: number of the example whose turn it is.
        size: of the source.
        seed, index: of the stream, and of the example in it: with `size` they decide what stands in.

    Raises:
        ValueError: none of many could be used.
    """
    bad = []
    for number in (first, *_substitutes(size, seed, index)):
        try:
            return make(number), bad
        except BadExample as error:
            bad.append(error)
    raise ValueError(f"{len(bad)} examples in a row cannot be used: {_names(bad)}; mend or remove these")


def _substitutes(size: int, seed: int, index: int) -> Iterator[int]:
    for attempt in range(_TRIES - 1):
        digest = hashlib.blake2b(f"{seed} {index} {attempt}".encode(), digest_size=8).digest()
        yield int.from_bytes(digest, "little") % size


class Replaced:
    """What was replaced in this process: noted by reader threads, counted as its batches are handed out.

    `most`: share of the examples of the epochs so far that may be replaced.
    `epoch`: examples of one, as many as this process reads.
    """

    def __init__(self, *, most: float, epoch: int):
        self._most, self._epoch = most, epoch
        self._noted: dict[int, list[BadExample]] = {}
        self._lock = threading.Lock()
        self._handed_out = self._replaced = 0
        self._reasons: dict[int, str] = {}  # of the replaced examples that are not counted yet, by index
        self._by_file: dict[str, BadExample] = {}

    def note(self, index: int, bad: list[BadExample]) -> None:
        with self._lock:
            self._noted[index] = bad

    def hand_out(self, indices: range) -> None:
        """Counts what was noted for these examples of the stream.

        Raises:
            ValueError: more than the share that is allowed was replaced; names files.
        """
        with self._lock:
            noted = {index: self._noted.pop(index) for index in indices if index in self._noted}
        self._handed_out += len(indices)
        self._replaced += len(noted)
        self._reasons |= {index: bad[0].reason for index, bad in noted.items()}
        for error in itertools.chain(*noted.values()):
            if error.where not in self._by_file and len(self._by_file) < _NAMED:
                log.warning("replaced in training: %s", error)
            self._by_file.setdefault(error.where, error)
        # Of whole epochs: in the middle of one, its bad examples may all have come already.
        seen = -(-self._handed_out // self._epoch) * self._epoch
        if noted and self._replaced > self._most * seen:
            raise ValueError(
                f"{self._replaced} examples had to be replaced, more than data.most_replaced={self._most} of "
                f"{seen}: {_names(self._by_file.values())}; mend or remove these, or allow more"
            )

    def count(self, end: int) -> dict[str, int]:
        """Number of examples replaced before global index `end` and not counted yet, by reason."""
        now = [index for index in self._reasons if index < end]
        return dict(collections.Counter(self._reasons.pop(index) for index in now))


def _names(bad) -> str:
    bad = list({error.where: error for error in bad}.values())
    more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return "; ".join(str(error) for error in bad[:_NAMED]) + more
