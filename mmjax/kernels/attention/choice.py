"""Which implementation serves a case: the rule behind "auto", and who refuses what.

Every implementation is a file with `refusal(case)`. The rule, by platform, takes the first that serves:

- tpu: pallas_tpu, then xla;
- cuda: cudnn, then xla;
- any other: xla.

pallas_gpu is taken where it is asked for: no GPU has timed it yet.
"""

import functools
import logging
from typing import Literal, get_args

from mmjax.kernels.attention import cudnn, devices, pallas_gpu, pallas_tpu, xla
from mmjax.kernels.attention.case import Case
from mmjax.kernels.attention.devices import Platform

log = logging.getLogger("mmjax")

Implementation = Literal["auto", "pallas_tpu", "pallas_gpu", "cudnn", "xla"]

MEMBERS = {"pallas_tpu": pallas_tpu, "pallas_gpu": pallas_gpu, "cudnn": cudnn, "xla": xla}
_ORDER = {"tpu": ("pallas_tpu", "xla"), "cuda": ("cudnn", "xla")}
_PREPARES = {"pallas_tpu": pallas_tpu.prepares}
_HOME = {"pallas_tpu": "tpu", "pallas_gpu": "cuda", "cudnn": "cuda"}


def choose(implementation: Implementation, case: Case) -> dict[Platform | None, str]:
    """The implementation for each platform that this machine may compile for, and for any other (None).

    Raises:
        ValueError: there is no such implementation.
        NotImplementedError: the one that is asked for cannot serve the case; says which one can.
    """
    if implementation not in get_args(Implementation):
        raise ValueError(f"implementation={implementation!r} is none of {get_args(Implementation)}")
    if implementation == "auto":
        found = {platform: _first(platform, case) for platform in sorted(devices.compilable())} | {
            None: "xla"
        }
        _report(case, tuple(found.items()))
        return found
    reason = MEMBERS[implementation].refusal(case)
    home = _HOME.get(implementation)
    if reason is not None:
        raise NotImplementedError(
            f"{implementation} cannot serve attention of {case}: {reason}; "
            f'use implementation="{_first(home, case, besides=implementation)}"'
        )
    return {None: implementation} if home is None else {home: implementation}


def prepares(name: str, case: Case) -> bool:
    """Whether an implementation normalises and turns queries and keys itself."""
    return name in _PREPARES and _PREPARES[name](case)


def _first(platform: Platform | None, case: Case, besides: str | None = None) -> str:
    order = [name for name in _ORDER.get(platform, ("xla",)) if name != besides]
    return next(name for name in order if MEMBERS[name].refusal(case) is None)


@functools.cache
def _report(case: Case, found):
    """Once for every case."""
    named = [f"{name} on {platform or 'other devices'}" for platform, name in found]
    log.info("attention of %s: %s", case, ", ".join(named) if len(named) > 1 else found[0][1])
