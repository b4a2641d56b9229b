"""Archives that data sets come in: fetched once by a registry's own client, and kept beside all data."""

import fnmatch
import hashlib
import logging
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("mmjax")

NOTICE_S = 5.0  # a log line at least this often while a client works


def data_root(data_dir: str | None) -> Path:
    """The folder of all data sets: `data_dir`, else $MMJAX_DATA_DIR, else one in the user's cache."""
    chosen = data_dir or os.environ.get("MMJAX_DATA_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmjax" / "data"


def fetch(path: Path, command: Callable[[], list[str]], *, what: str, client: str, made: str) -> Path:
    """`path`, which `command` makes where it is not there yet.

    On a machine without a network, put the file there beforehand.

    Args:
        path: the archive.
        command: gives what to run, in an empty folder, where no project's settings apply.
        what: the package as people call it.
        client: the program that fetches, as people call it.
        made: a pattern that the name of the file that the command makes matches.

    Raises:
        ValueError: the command fails or makes no such file; the message says what it said.
    """
    if path.exists():
        log.info("%s is in %s", what, path.parent)
        return path
    arguments = command()
    log.info("fetching %s", what)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A scratch folder, so that what lies under the final name is always whole.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{client}-") as scratch:
        status, errors = _run(arguments, scratch, what)
        found = fnmatch.filter(os.listdir(scratch), made)
        if status or not found:
            said = _reason(errors) or f"exit {status}"
            raise ValueError(
                f"{what} could not be fetched with {client} ({said}); check the network, or put "
                f"{path.name} into {path.parent}"
            )
        os.replace(Path(scratch) / found[0], path)
    return path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(arguments: list[str], folder: str, what: str) -> tuple[int, str]:
    process = subprocess.Popen(
        arguments,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while True:
        try:
            _, errors = process.communicate(timeout=NOTICE_S)
            return process.returncode, errors
        except subprocess.TimeoutExpired:
            log.info("still fetching %s", what)


def _reason(errors: str) -> str:
    """The first line that is more than apt's warning."""
    lines = (line.strip() for line in errors.splitlines())
    return next((line for line in lines if line and not line.startswith("W: ")), "")
