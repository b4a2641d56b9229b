"""How much of attention one grid step of a TPU takes: from a table where a case is in it, else by a rule."""

import dataclasses

from mmjax.kernels.attention.case import Case

_LANES = 128
# Scores of a grid step, of all its heads together: more make slow programs to compile, not faster ones.
_SCORES = 1_600_000
_PART = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
    heads: int  # of a grid step
    apart: bool  # whether heads are apart, [B, N, S, K], and not side by side, [B, S, X]
    queries: int  # of a unit of work
    ahead: int  # units by which a stage of the computation is ahead of the next


def blocks(case: Case, kernel: str) -> Blocks:
    return by_rule(case)


def by_rule(case: Case) -> Blocks:
    """As many heads as the bound on scores allows; side by side where they fill lanes, or are all."""
    most = max(1, _SCORES // (case.keys * -(-case.keys // _LANES) * _LANES))
    counts = [n for n in range(1, case.heads + 1) if case.heads % n == 0]
    side_by_side = [n for n in counts if n * case.width % _LANES == 0 or n == case.heads]
    apart = min(side_by_side) > 2 * most
    fitting = [n for n in (counts if apart else side_by_side) if n <= most]
    heads = max(fitting) if fitting else min(side_by_side)
    return Blocks(heads=heads, apart=apart, queries=2048, ahead=99)
