"""Which drawings are copies, which belong together, and which split they are in.

A library of many hands has the same drawing twice, in two colours, or numbered one to nine under one title.
Drawings with the same caption, the same file name, or nearly the same look are in one split.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from mmjax.data.sources.held_out import held_out

SPLITS = ("train", "val", "test")
ALIKE = 3  # bits of 64 in which pictures that look nearly the same may differ
UNSORTED = "unsorted"  # the folder of drawings that nobody filed

_TEST, _VAL = 0.1, 0.06


def first_of_each(paths: Sequence[str], digests: Sequence[str]) -> list[int]:
    """The numbers of the drawings that are no copy, in order; of copies the first that was filed is kept."""
    order = sorted(range(len(paths)), key=lambda n: (paths[n].startswith(f"{UNSORTED}/"), paths[n]))
    kept = {}
    for number in order:
        kept.setdefault(digests[number], number)
    return sorted(kept.values())


def groups(captions: Sequence[str], names: Sequence[str], dhashes: Sequence[int]) -> list[int]:
    """For every drawing the first one of its group: what alikeness joins, directly or through others."""
    first = list(range(len(captions)))

    def root(number: int) -> int:
        while first[number] != number:
            first[number] = first[first[number]]
            number = first[number]
        return number

    for one, other in itertools.chain(equal(captions), equal(names), alike(dhashes)):
        one, other = sorted((root(one), root(other)))
        first[other] = one
    return [root(number) for number in range(len(first))]


def equal(keys: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs of drawings with equal keys: of each the first one that has it, and this one."""
    first_with = {}
    for number, key in enumerate(keys):
        yield first_with.setdefault(key, number), number


def alike(dhashes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs of drawings whose hashes differ in at most `ALIKE` bits."""
    bits_N = np.array(dhashes, np.uint64)
    for one in range(len(bits_N)):
        different_N = np.bitwise_count(bits_N[one + 1 :] ^ bits_N[one])
        for other in np.flatnonzero(different_N <= ALIKE):
            yield one, one + 1 + int(other)


def split_of(key: str) -> str:
    """The split of a group, by a name that is its own."""
    if held_out(f"openclipart/test/{key}", _TEST):
        return "test"
    return "val" if held_out(f"openclipart/val/{key}", _VAL / (1 - _TEST)) else "train"
