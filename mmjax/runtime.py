"""Starts JAX for a run: its processes and its compilation cache."""

import os
import pathlib

import absl.logging
import jax

# Variables that launchers set to the number of processes of a job.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def start(*, coordinator: str | None = None, processes: int | None = None, process: int | None = None):
    """Joins the processes of this job, before any device is touched.

    Without arguments JAX finds them itself on Slurm, Open MPI and TPU pods; a lone process stays alone.

    Raises:
        ValueError: only some of the arguments are given.
    """
    # JAX tells which devices it did not find, and Orbax every file it writes. What fails in the threads of
    # Orbax is raised at the next save, in one line.
    absl.logging.set_verbosity(absl.logging.FATAL)
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
