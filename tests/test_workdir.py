"""A run's directory belongs to one config, and its files are whole or not there."""

import dataclasses
import json
import pathlib
import platform

import debugrun
import jax
import pytest

from mmjax import config, workdir
from mmjax.checkpoint import Checkpointing
from mmjax.sharding import MeshShape


def test_a_claimed_directory_holds_the_config_and_the_environment(tmp_path):
    workdir.claim(tmp_path / "a" / "b", debugrun.config())
    saved = (tmp_path / "a" / "b" / "config.json").read_text()
    assert config.from_json(saved, packages=("mmjax",)) == debugrun.config()
    environment = json.loads((tmp_path / "a" / "b" / "env.json").read_text())
    assert environment["jax"] == jax.__version__
    assert environment["python"] == platform.python_version()
    assert environment["devices"].startswith("8 x ")
    assert environment["processes"] == "1"
    assert {"mmjax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "commit"} < set(environment)


def test_the_same_config_goes_on(tmp_path):
    for _ in range(2):
        workdir.claim(tmp_path, debugrun.config())


def test_what_changes_nothing_that_is_learned_may_change_and_is_written_down(tmp_path):
    workdir.claim(tmp_path, debugrun.config())
    changed = dataclasses.replace(
        debugrun.config(),
        log_every=7,
        mesh=MeshShape(fsdp=2),
        accumulate=2,
        checkpoint=Checkpointing(keep_last=5),
        evals={},
        data=dataclasses.replace(debugrun.config().data, threads=5, ahead=3, most_replaced=0.5),
    )
    workdir.claim(tmp_path, changed)
    assert config.from_json((tmp_path / "config.json").read_text()) == changed


def test_another_run_is_refused_with_every_difference_and_changes_nothing(tmp_path):
    cfg = debugrun.config()
    workdir.claim(tmp_path, cfg)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = dataclasses.replace(cfg, seed=3, optim=dataclasses.replace(cfg.optim, lr=0.5), log_every=9)
    with pytest.raises(ValueError, match="belongs to a run of another config") as error:
        workdir.claim(tmp_path, other)
    message = str(error.value)
    assert "seed" in message and "optim.lr" in message and "0.5" in message
    assert "log_every" not in message and "\n" not in message
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("content", ["grüße\n", b"\x00\xff"], ids=["text", "bytes"])
def test_write_leaves_the_content_and_nothing_else(tmp_path, content):
    workdir.write(tmp_path / "file", "old and longer than the new one")
    workdir.write(tmp_path / "file", content)
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    workdir.write(tmp_path / "file", "old")
    whole = pathlib.Path.write_bytes

    def full_disk(path, content):
        whole(path, content[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full_disk)
    with pytest.raises(ValueError, match="file could not be written: No space left on device; free space"):
        workdir.write(tmp_path / "file", "new content")
    (path,) = tmp_path.iterdir()
    assert path.read_text() == "old"


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="could not be written: .*; free space or choose another --workdir"):
        workdir.claim(tmp_path / "file" / "run", debugrun.config())
    with pytest.raises(ValueError, match="could not be written: .*; free space or choose another --workdir"):
        workdir.write(tmp_path / "file" / "run.json", "content")
