"""How JAX is started."""

import jax
import pytest

from mmjax import runtime


@pytest.fixture(autouse=True)
def same_cache_afterwards():
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def joined(monkeypatch):
    """The arguments of every call to JAX's own start of several processes, which here does nothing."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
    for name in ("JAX_COORDINATOR_ADDRESS", "TPU_WORKER_HOSTNAMES", *runtime._COUNTS):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize(
    "given",
    [
        dict(coordinator="localhost:1"),
        dict(processes=2),
        dict(process=0),
        dict(coordinator="localhost:1", processes=2),
        dict(processes=2, process=1),
    ],
    ids=str,
)
def test_some_but_not_all_of_the_arguments_are_refused(joined, given):
    with pytest.raises(ValueError, match="give all three, or none") as error:
        runtime.start(**given)
    assert all(f"--{name}={value}" in str(error.value) for name, value in given.items())
    assert joined == []


def test_given_processes_are_joined(joined):
    runtime.start(coordinator="localhost:1", processes=2, process=0)
    assert joined == [("localhost:1", 2, 0)]


@pytest.mark.parametrize(
    ("variable", "value", "calls"),
    [
        ("SLURM_STEP_NUM_TASKS", "2", [()]),
        ("SLURM_STEP_NUM_TASKS", "1", []),
        ("OMPI_COMM_WORLD_SIZE", "16", [()]),
        ("TPU_WORKER_HOSTNAMES", "host0,host1", [()]),
        ("TPU_WORKER_HOSTNAMES", "localhost", []),
        ("JAX_COORDINATOR_ADDRESS", "host0:1234", [()]),
        ("HOME", "/nowhere", []),
    ],
)
def test_a_job_of_several_processes_is_joined_and_a_lone_process_stays_alone(
    joined, monkeypatch, variable, value, calls
):
    monkeypatch.setenv(variable, value)
    runtime.start()
    assert joined == calls


def test_compiled_programs_are_kept_in_the_users_cache(joined, monkeypatch, tmp_path):
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runtime.start()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mmjax" / "xla")


def test_a_compilation_cache_that_jax_was_given_is_left_alone(joined, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    runtime.start()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)
