"""How much of attention one grid step of a TPU takes: from a table where the case is in it, else by a rule.

`tune_tpu.py` makes the table, from the compiler's schedules.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Literal

from mmjax.kernels.attention.case import Case
from mmjax.kernels.attention.devices import compiled_for

Kernel = Literal["forward", "backward"]

TABLE = pathlib.Path(__file__).with_name("tpu_blocks.json")
KEY = ("kernel", "device", "dtype", "positions", "width", "masks")  # of its rows

LANES = 128
# Scores of a grid step, of all its heads together: more take long to compile, and overlap hardly better.
_SCORES = {"forward": 3_200_000, "backward": 1_600_000}
_HEADS = 16
_LONG = 1024  # positions; of more, a grid step has some of the queries
_PART = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is tuned; it fits any number of heads."""

    most: int  # heads of a grid step, at most
    queries: int  # of a unit of work: a part of one head
    ahead: int  # units by which a stage of the computation is ahead of the next


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
    heads: int  # of a grid step
    apart: bool  # whether heads are apart, [B, N, S, K], and not side by side, [B, S, X]
    queries: int
    ahead: int
    step: int | None = None  # queries of a grid step; None: all


def blocks(case: Case, kernel: Kernel, device: str | None = None) -> Blocks:
    """For a kind of device; None: for the one that is compiled for."""
    device = compiled_for() if device is None else device
    keys = (key_of(case, kernel, device, masks) for masks in (mask_of(case), ""))
    found = next((_plans()[key] for key in keys if key in _plans()), None)
    return fit(case, found or rule(case, kernel))


def rule(case: Case, kernel: Kernel) -> Plan:
    """The forward pass stage by stage; the backward pass in turns, since it holds twice as much."""
    size = positions(case)
    if is_streamed(case):
        most = max(1, LANES // case.width)  # as many as fill the lanes
        queries = _SCORES[kernel] // (most * size) // LANES * LANES
        return Plan(most=most, queries=min(max(queries, LANES), 2 * _PART), ahead=1)
    most = max(1, min(_HEADS, _SCORES[kernel] // (size * _up(size, LANES))))
    if kernel == "forward":
        return Plan(most=most, queries=size, ahead=2 * most)
    return Plan(most=most, queries=_up(-(-size // max(1, round(size / _PART))), LANES), ahead=1)


def fit(case: Case, plan: Plan) -> Blocks:
    """As many heads as the plan allows: side by side where they fill lanes or are all, else apart."""
    counts = [n for n in range(1, case.heads + 1) if case.heads % n == 0]
    side_by_side = [n for n in counts if n * case.width % LANES == 0 or n == case.heads]
    # Putting heads apart moves every array twice; a few more heads than planned cost less.
    apart = min(side_by_side) > 2 * plan.most
    heads = max([n for n in (counts if apart else side_by_side) if n <= plan.most] or [min(side_by_side)])
    queries = min(plan.queries, positions(case))
    units = heads * -(-positions(case) // queries)
    step = queries if is_streamed(case) else None
    return Blocks(heads=heads, apart=apart, queries=queries, ahead=min(plan.ahead, units), step=step)


def is_streamed(case: Case) -> bool:
    """Whether rows of scores of all queries would be too many for a grid step."""
    return positions(case) > _LONG


def positions(case: Case) -> int:
    """Those that are worked on."""
    return case.keys if case.kv_len is None else case.kv_len


def rows() -> list[dict]:
    """Of the table: plans by `KEY`, with their cycles, and when and on what they were found."""
    return json.loads(TABLE.read_text())["rows"]


def key_of(case: Case, kernel: Kernel, device: str, masks: str | None = None) -> tuple:
    """`KEY` of a case, or of one of other masks."""
    masks = mask_of(case) if masks is None else masks
    return kernel, device, str(case.dtype), positions(case), case.width, masks


def mask_of(case: Case) -> str:
    """The masks that are worked on, as the table names them."""
    return "+".join(name for name in ("lengths", "segments", "causal") if getattr(case, name))


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


@functools.cache
def _plans():
    """By `KEY`."""
    return {tuple(row[name] for name in KEY): Plan(**row["plan"]) for row in rows()}
