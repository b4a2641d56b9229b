"""Eight CPU devices for every test and a compiler that hurries, set before JAX starts."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 " + os.environ.get("XLA_FLAGS", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Tests compile for longer than they compute: without LLVM's costly passes they take less than half the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
