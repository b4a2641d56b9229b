"""Starts JAX for a run: its processes, its compilation cache, and what a CPU needs to be fast."""

import logging
import os
import pathlib
import subprocess
import sys

import jax

log = logging.getLogger("mmjax")

# Variables that launchers set to the number of processes of a job.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")

_ONEDNN = "--xla_cpu_experimental_onednn_custom_call=true"


def start(*, coordinator: str | None = None, processes: int | None = None, process: int | None = None):
    """Joins the processes of this job, before any device is touched.

    Without arguments JAX finds them itself on Slurm, Open MPI and TPU pods; a lone process stays alone.

    Raises:
        ValueError: only some of the arguments are given.
    """
    _use_compilation_cache()
    given = (coordinator, processes, process)
    if all(value is None for value in given):
        if _in_a_cluster():
            jax.distributed.initialize()
        return
    if any(value is None for value in given):
        raise ValueError(
            f"--coordinator={coordinator} --processes={processes} --process={process}: "
            "give all three, or none"
        )
    jax.distributed.initialize(coordinator, processes, process)


def speed_up_bfloat16_on_cpu():
    """Turns on XLA's oneDNN calls where it has them; call before a device is touched.

    Without them one product, that of a dense layer's weight gradient, is up to 30 times slower in bfloat16
    than in float32. An unknown flag aborts the process, so another one tries it first.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "onednn_custom_call" in flags or (jax.config.jax_platforms or "cpu") != "cpu":
        return
    tried = {**os.environ, "XLA_FLAGS": f"{flags} {_ONEDNN}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    if subprocess.run(command, env=tried, capture_output=True, timeout=120).returncode == 0:
        os.environ["XLA_FLAGS"] = tried["XLA_FLAGS"]
        log.info("bfloat16 on a CPU: XLA_FLAGS += %s", _ONEDNN)
    else:
        log.warning("bfloat16 on a CPU is slow: this XLA does not know %s; float32 may be faster", _ONEDNN)


def _in_a_cluster() -> bool:
    counts = [os.environ.get(name, "1") for name in _COUNTS]
    return (
        "JAX_COORDINATOR_ADDRESS" in os.environ
        or any(count.isdigit() and int(count) > 1 for count in counts)
        or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    )


def _use_compilation_cache():
    """Keeps compiled programs in the user's cache directory, unless JAX was told where already."""
    if jax.config.jax_compilation_cache_dir is None:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "mmjax" / "xla"))
