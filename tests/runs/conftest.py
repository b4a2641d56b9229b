"""Finished runs that many tests read, made once for all processes of pytest."""

import contextlib
import fcntl
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

import jax
import own_pictures
import pytest
from commands import DEBUG, FINETUNE, PAINTS, ROOT, SMALL, exit_code, start


class Finished(NamedTuple):
    workdir: pathlib.Path
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> pathlib.Path:
    """A folder of this session that pytest-xdist's workers share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def compiled_once(shared):
    """Programs that one process compiled are there for all; the user's own cache is left alone."""
    options = {
        "jax_compilation_cache_dir": str(shared / "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        yield
    for name, value in before.items():
        jax.config.update(name, value)


@contextlib.contextmanager
def _once(folder: pathlib.Path):
    """Yields whether `folder` is still to be made; other processes wait for the one that makes it."""
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = pathlib.Path(f"{folder}.done")
        yield not done.exists()
        done.touch()


@pytest.fixture(scope="session")
def finished(shared) -> Finished:
    """The debug config, run to its end by the command that a user types."""
    workdir = shared / "finished"
    printed = {name: shared / f"finished.{name}" for name in ("stdout", "stderr")}
    with _once(workdir) as missing:
        if missing:
            command = [sys.executable, "-m", "mmjax.main", f"--config={DEBUG}", f"--workdir={workdir}"]
            with printed["stdout"].open("w") as out, printed["stderr"].open("w") as err:
                subprocess.run(
                    [*command, "data.train.size=1000"], cwd=ROOT, stdout=out, stderr=err, check=True
                )
    return Finished(workdir, **{name: path.read_text() for name, path in printed.items()})


@pytest.fixture(scope="session")
def uninterrupted(shared) -> pathlib.Path:
    """Workdir of a small run that nothing disturbed."""
    workdir = shared / "uninterrupted"
    with _once(workdir) as missing:
        if missing:
            assert exit_code(start(SMALL, workdir)) == 0, pathlib.Path(f"{workdir}.out").read_text()
    return workdir


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Pictures in folders named for the paint of what they show."""
    root = tmp_path_factory.mktemp("own") / "photos"
    for name, caption, image in own_pictures.things(160):
        paint = caption.split()[1]
        if paint in PAINTS:
            (root / paint).mkdir(parents=True, exist_ok=True)
            image.save(root / paint / name)
    return root


@pytest.fixture(scope="session")
def spec(photos, finished):
    """The config's arguments, with more of them."""

    def spec(*more, init_from=finished.workdir, data=photos):
        return ",".join([f"{FINETUNE}:init_from={init_from},data={data}", *more])

    return spec
