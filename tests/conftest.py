"""Eight CPU devices for every test and a compiler that hurries, set before JAX starts."""

import logging
import os
import signal
import sys
from importlib import metadata

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
_FLAGS = ["--xla_force_host_platform_device_count=8"]
if metadata.version("jaxlib").startswith("0.10."):  # 0.12 ends at a flag that it does not know
    # The emitters of fused loops take as long to compile as all else together, and tests run a program once.
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*_FLAGS, os.environ.get("XLA_FLAGS", "")])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Tests compile for longer than they compute: without LLVM's costly passes they take less than half the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.fixture(autouse=True)
def import_path(monkeypatch):
    """Loading a config adds to the import path; modules of one test are not for the next to find."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt; what a shell starts in the background would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


LOG = logging.getLogger("mmjax")
AT_FIRST = LOG.handlers[:], LOG.level, LOG.propagate


@pytest.fixture(autouse=True)
def logger_as_at_first():
    """Runs in this process send the log to their terminal and workdir; later tests want it elsewhere.

    What it was before this test would not do: a fixture of a whole module may have changed it already.
    """
    yield
    handlers, level, propagate = AT_FIRST
    for handler in set(LOG.handlers) - set(handlers):
        handler.close()
    LOG.handlers[:], LOG.propagate = handlers, propagate
    LOG.setLevel(level)
