"""Packages of Debian that hold data: fetched with apt's client and unpacked, not installed."""

import logging
import shutil
import subprocess
from pathlib import Path

from mmjax.data.sources import fetching

log = logging.getLogger("mmjax")


def package(name: str, downloads: Path, *, sha256: str, what: str, otherwise: str) -> Path:
    """The archive; a newer version than the one that was looked at is taken, with a warning.

    Args:
        sha256: of the version that was looked at.
        what: the data set as people call it.
        otherwise: what to do on a system that is not Debian's.

    Raises:
        ValueError: there is no apt, or the package cannot be fetched.
    """

    def command() -> list[str]:
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise ValueError(
                f"{what} is fetched as Debian's package {name}, but apt-get and dpkg-deb are not here; "
                f"{otherwise}"
            )
        return ["apt-get", "download", "-q", name]

    path = fetching.fetch(downloads / f"{name}.deb", command, what=name, client="apt", made="*.deb")
    found = fetching.sha256(path)
    if found != sha256:
        log.warning("%s is not the version that mmjax was tried with: sha256 %s, not %s", path, found, sha256)
    return path


def unpack(package: Path, folder: str) -> None:
    """The files of the archive in `folder`.

    Raises:
        ValueError: it is damaged.
    """
    done = subprocess.run(
        ["dpkg-deb", "-x", str(package), folder], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        raise damaged(package, said[0])


def damaged(package: Path, why: str) -> ValueError:
    return ValueError(f"{package} could not be unpacked ({why}); delete it and run again")
