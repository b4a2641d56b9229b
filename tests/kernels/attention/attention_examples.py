"""Which examples attention is tried on: a few that pair all choices, and every published shape."""

import itertools

import numpy as np
from attending import DTYPES, LENGTHS, MASKS, PREPARATIONS, WIDTHS, Example


def covering(**choices):
    """Examples such that any two values of different fields, and any choice of masks, meet in one of them.

    Greedily: of many random candidates the one in which most meets for the first time, until nothing is left.
    """
    rng = np.random.default_rng(0)

    def meetings(fields):
        return {*itertools.combinations(fields.items(), 2), tuple((mask, fields[mask]) for mask in MASKS)}

    every = (dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values()))
    missing = set().union(*map(meetings, every))
    examples = []
    while missing:
        first = dict(min(missing, key=str))
        draws = [
            {name: values[rng.integers(len(values))] for name, values in choices.items()} for _ in range(50)
        ]
        best = max((draw | first for draw in draws), key=lambda fields: len(meetings(fields) & missing))
        missing -= meetings(best)
        examples.append(Example(**best))
    return examples


QUICK_LENGTHS, QUICK_HEADS = (1, 50, 77), (1, 3)
QUICK = covering(
    length=QUICK_LENGTHS,
    width=WIDTHS,
    heads=QUICK_HEADS,
    dtype=tuple(DTYPES),
    **dict.fromkeys((*MASKS, *PREPARATIONS), (False, True)),
)
# More heads than a block of a kernel has, and more rows than a tile.
QUICK += [
    Example(length=17, heads=16, width=80, dtype="bfloat16", lengths=True),
    Example(length=197, heads=2, width=64, dtype="bfloat16", kv_len=True),
    # One query more than whole tiles of a TPU's lanes; seen, and as padding.
    Example(length=129, heads=3, width=64, segments=True, causal=True),
    Example(length=129, heads=2, width=64, dtype="bfloat16"),
    Example(length=134, heads=16, width=72, dtype="bfloat16", kv_len=True, lengths=True),
    # More queries than a grid step of a TPU takes.
    Example(length=1030, heads=1, width=64, lengths=True, norm=True, rope=True),
]
ALL = [
    Example(length=length, width=width, dtype=dtype, **options)
    for length, width, dtype in itertools.product(LENGTHS, WIDTHS, DTYPES)
    for options in (
        {},
        *({mask: True} for mask in MASKS),
        dict.fromkeys(PREPARATIONS, True),
        dict.fromkeys((*MASKS, *PREPARATIONS), True),
    )
]
# Heads that fill no lanes, of rows so long that they are put apart on a TPU.
ALL += [
    Example(length=729, heads=16, width=width, batch=2, dtype="bfloat16", lengths=True) for width in (72, 88)
]
