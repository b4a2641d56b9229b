"""Which implementation serves a case: the rule behind "auto", and who refuses what.

Every implementation is a file with `refusal(case)`. The rule, by platform, takes the first that serves:

- tpu: pallas_tpu, then xla;
- cuda: pallas_gpu up to `ROW` keys, then cudnn, then xla;
- any other: xla.
"""

import functools
import importlib.util
import logging
from typing import Literal, get_args

import jax

from mmjax.kernels.attention import cudnn, pallas_gpu, xla
from mmjax.kernels.attention.case import Case

log = logging.getLogger("mmjax")

Implementation = Literal["auto", "pallas_tpu", "pallas_gpu", "cudnn", "xla"]
Platform = Literal["tpu", "cuda"] | None  # None: any other

MEMBERS = {"pallas_gpu": pallas_gpu, "cudnn": cudnn, "xla": xla}
_ORDER = {"tpu": ("pallas_tpu", "xla"), "cuda": ("pallas_gpu", "cudnn", "xla")}
_HOME = {"pallas_tpu": "tpu", "pallas_gpu": "cuda", "cudnn": "cuda"}
# Modules without which nothing can be compiled for a platform.
_COMPILERS = {"tpu": ("libtpu",), "cuda": ("jax_cuda12_plugin", "jax_cuda13_plugin")}

# Keys up to which a row of scores stays in the registers of a Hopper GPU.
ROW = 256


def choose(implementation: Implementation, case: Case) -> dict[Platform, str]:
    """The implementation for each platform that this machine may compile for, and for any other (None).

    Raises:
        ValueError: there is no such implementation.
        NotImplementedError: the one that is asked for cannot serve the case; says which one can.
    """
    if implementation not in get_args(Implementation):
        raise ValueError(f"implementation={implementation!r} is none of {get_args(Implementation)}")
    if implementation == "auto":
        found = {platform: _first(platform, case) for platform in sorted(compilable())} | {None: "xla"}
        _report(case, tuple(found.items()))
        return found
    reason = MEMBERS[implementation].refusal(case)
    home = _HOME.get(implementation)
    if reason is None and implementation == "cudnn" and home not in compilable():
        reason = "there is no plugin of JAX for CUDA"
    if reason is not None:
        raise NotImplementedError(
            f"{implementation} cannot serve attention of {case}: {reason}; "
            f'use implementation="{_first(home, case, besides=implementation)}"'
        )
    return {None: implementation} if home is None else {home: implementation}


@functools.cache
def compilable() -> frozenset[str]:
    """Platforms with kernels of their own that programs of this machine may be for.

    A CPU compiles for a TPU where libtpu is installed. Where it is not, a kernel for TPUs would be traced in
    vain, which takes longer than the attention of a small tower.
    """
    return frozenset(
        platform
        for platform, modules in _COMPILERS.items()
        if is_here(platform) or any(map(importlib.util.find_spec, modules))
    )


def is_here(platform: str) -> bool:
    """Whether JAX runs on devices of the platform unless told otherwise."""
    return jax.default_backend() == {"cuda": "gpu"}.get(platform, platform)


def _first(platform: Platform, case: Case, besides: str | None = None) -> str:
    order = [name for name in _ORDER.get(platform, ("xla",)) if name != besides and name in MEMBERS]
    if case.keys > ROW:
        order = [name for name in order if name != "pallas_gpu"]
    return next(name for name in order if MEMBERS[name].refusal(case) is None)


@functools.cache
def _report(case: Case, found):
    """Once for every case."""
    named = [f"{name} on {platform or 'other devices'}" for platform, name in found if len(found) > 1]
    log.info("attention of %s: %s", case, ", ".join(named) or found[0][1])
