"""Configs: frozen dataclasses that a Python file builds, the command line changes and a JSON file keeps.

    python -m mmjax.main --config=configs/quickstart.py:debug --workdir=runs/a optim.lr=3e-4

A config is data: None, bool, int, float, str, tuples, dicts by string, frozen dataclasses; a Flax Linen
module is one of these. A *path* such as `evals.style.every_steps` or `colour.0.prob` leads through fields,
keys of dicts and indices of tuples. Only the standard library is imported, so that `--help` answers at once.
`docs/configs.md` shows how to write, fork and override one.
"""

from mmjax.config.loading import load, override
from mmjax.config.printing import differences, show
from mmjax.config.saving import from_json, packages, to_json
from mmjax.config.tree import ConfigError

__all__ = ["ConfigError", "differences", "from_json", "load", "override", "packages", "show", "to_json"]
