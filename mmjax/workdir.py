"""A run's directory: it belongs to one config, and holds all that is needed to go on or to load the model."""

import contextlib
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
from importlib import metadata

import jax

from mmjax import config

# What may change between two starts of one run: nothing here changes what is learned.
_FREE = ("evals", "checkpoint", "log_every", "mesh", "accumulate")
_FREE += ("data.threads", "data.ahead", "data.most_replaced")
_FREE_PATH = rf"({'|'.join(map(re.escape, _FREE))})\b"

_PACKAGES = ("mmjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "sentencepiece")


def claim(workdir: pathlib.Path, cfg):
    """Makes `workdir` the directory of a run of `cfg`, or checks that it is.

    Raises:
        ValueError: the directory belongs to a run that learns something else; lists every difference.
    """
    path = workdir / "config.json"
    if path.is_file():
        before = config.from_json(path.read_text(), config.packages(cfg))
        lines = [line for line in config.differences(before, cfg) if not re.match(_FREE_PATH, line)]
        if lines:
            raise ValueError(
                f"{workdir} belongs to a run of another config ({'; '.join(lines)}); "
                "use another --workdir, or the config of that run"
            )
    if jax.process_index() == 0:
        write(path, config.to_json(cfg))
        write(workdir / "env.json", json.dumps(environment(), indent=2))


def write(path: pathlib.Path, content: str | bytes):
    """Writes a whole file or nothing, and makes its directory.

    Raises:
        ValueError: the disk is full or the path cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ValueError(
            f"{path} could not be written: {error.strerror}; free space or choose another --workdir"
        ) from error


def environment() -> dict[str, str]:
    """Versions, devices and the commit that a run was made with."""
    devices = jax.devices()
    return {
        "command": " ".join(sys.argv),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": str(os.cpu_count()),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": str(jax.process_count()),
        "commit": _commit(),
        **{name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Commit of this file's checkout, with a `+` where it was changed; empty outside a checkout."""
    here = pathlib.Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except OSError:
        return ""
