"""How many warpgroups a thread block of the Hopper kernels has: from a table where the case is in it, else by
a rule.

`tests/benchmarks/bench_attention.py sweep` makes the table, on a GPU, from the times of all splits.
"""

import functools
import json
import pathlib
from typing import NamedTuple

from mmjax.kernels.attention import devices
from mmjax.kernels.attention.case import Case
from mmjax.kernels.attention.pallas_gpu_tiles import T

TABLE = pathlib.Path(__file__).with_name("pallas_gpu_splits.json")
KEY = ("device", "dtype", "positions", "width", "masks")  # of its rows


class Warpgroups(NamedTuple):
    """Of 128 threads each, in a thread block of either kernel."""

    forward: int
    backward: int


def splits(case: Case) -> tuple[list[int], list[int]]:
    """Warpgroups that a thread block of the forward and of the backward kernel may have."""
    steps = -(-case.keys // T)
    if is_wide(case):
        return [1, 2], [1, 2]
    # dK and dV leave room in the registers for this many columns of tiles of keys.
    owned = 128 // (-(-case.width // 64) * 64)
    whole = (count for count in (1, 2, 3) if steps % count == 0)
    forwards, backwards = [1, 2][:steps], [count for count in whole if steps // count <= owned]
    return forwards, backwards


def is_wide(case: Case) -> bool:
    """Whether dK and dV do not fit the registers of one thread block, beside what makes them."""
    return case.width > 64 and case.keys > 2 * T


def choose(case: Case, device: str | None = None) -> Warpgroups:
    """For a kind of device; None: for the one that is compiled for."""
    table, device = _table(), devices.compiled_for() if device is None else device
    keys = (key_of(case, device, masks) for masks in (masks_of(case), ""))
    return next((table[key] for key in keys if key in table), rule(case))


def rule(case: Case) -> Warpgroups:
    """Forward, one warpgroup where another thread block fits on the same multiprocessor, whose copies then
    run while this one computes. Else, and backward, as many as there may be.
    """
    forwards, backwards = splits(case)
    operands = 3 * -(-case.keys // T) * T * case.width * 2  # bytes
    return Warpgroups(forwards[0] if operands < 110_000 else forwards[-1], backwards[-1])


def masks_of(case: Case) -> str:
    """As the table names them."""
    found = ("kv_len" if case.kv_len is not None else "", "lengths" if case.lengths else "")
    found += ("segments" if case.segments else "", "causal" if case.causal else "")
    return "+".join(filter(None, found))


def key_of(case: Case, device: str, masks: str) -> tuple:
    """`KEY` of a case with other masks."""
    return device, str(case.dtype), case.keys, case.width, masks


def rows() -> list[dict]:
    """Of the table: warpgroups by `KEY`, with the microseconds of all splits, and when and on what they were
    found."""
    return json.loads(TABLE.read_text())["rows"]


def store(new: list[dict]):
    """Adds rows to the table; one of the same `KEY` is replaced."""
    merged = {tuple(row[name] for name in KEY): row for row in [*rows(), *new]}
    lines = ",\n".join(f"  {json.dumps(row)}" for row in merged.values())
    TABLE.write_text(f'{{"rows": [\n{lines}\n]}}\n')
    _table.cache_clear()


@functools.cache
def _table():
    return {tuple(row[name] for name in KEY): Warpgroups(row["forward"], row["backward"]) for row in rows()}
