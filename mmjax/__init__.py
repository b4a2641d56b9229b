"""mmjax: contrastive pretraining of several modalities in JAX.

Importing it starts no device and reads no flag.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name):
    # Lazily, so that `python -m mmjax.main --help` imports no JAX.
    if name == "load":
        return importlib.import_module("mmjax.serve").load
    raise AttributeError(f"module 'mmjax' has no attribute {name!r}")
