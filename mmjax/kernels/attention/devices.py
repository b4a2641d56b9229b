"""What devices this machine has, and what others it can compile for."""

import functools
import importlib.util
import re
from typing import Literal

import jax

Platform = Literal["tpu", "cuda"]  # those with kernels of their own, by the names of `lax.platform_dependent`

# Modules without which nothing can be compiled for a platform.
_COMPILERS = {"tpu": ("libtpu",), "cuda": ("jax_cuda12_plugin", "jax_cuda13_plugin")}
_KINDS = {"tpu": "TPU", "cuda": "NVIDIA"}  # as kinds of devices begin


def is_here(platform: Platform) -> bool:
    """Whether JAX runs on devices of the platform unless told otherwise."""
    return jax.default_backend() == "tpu" if platform == "tpu" else cuda_capability() is not None


@functools.cache
def cuda_capability() -> float | None:
    """9.0 of a Hopper GPU, say; None where JAX runs on no NVIDIA GPU."""
    if jax.default_backend() != "gpu":
        return None
    # Of AMD's GPUs it is a word.
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    return float(capability) if re.fullmatch(r"\d+\.\d+", capability) else None


def is_target(platform: Platform) -> bool:
    """Whether programs are for the platform: for devices of the mesh, where they are known, else for those of
    this machine."""
    if jax.sharding.get_abstract_mesh().abstract_device is None:
        return is_here(platform)
    return compiled_for().startswith(_KINDS[platform])


def compiled_for() -> str:
    """The kind of device that is compiled for: of the mesh, where there is one."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.devices()[0].device_kind if device is None else device.device_kind


@functools.cache
def compilable() -> frozenset[Platform]:
    """Platforms that programs of this machine may be for.

    A CPU compiles for a TPU where libtpu is installed. Where it is not, a kernel for TPUs would be traced in
    vain, which takes longer than the attention of a small tower.
    """
    return frozenset(
        platform
        for platform, modules in _COMPILERS.items()
        if is_here(platform) or any(map(importlib.util.find_spec, modules))
    )
