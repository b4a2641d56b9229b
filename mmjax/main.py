"""Trains what a config describes, or goes on with it.

    python -m mmjax.main --config=configs/quickstart.py --workdir=runs/quickstart optim.lr=1e-3 steps=200

    python -m mmjax.main --config=configs/quickstart.py --workdir=runs/mine --data=photos/

`--data` puts other data in place of the config's. Arguments after the flags change the config:
field.subfield=value.

    python -m mmjax.main --workdir=runs/quickstart@1100 --eval_only --config=configs/evaluate_fashion.py

trains nothing: the evaluators of a config, without one those of the run, judge a checkpoint, the last one or
that of a step.
"""

import pathlib
import re
import sys
import traceback

from absl import app, flags

from mmjax import config

_CONFIG = flags.DEFINE_string(
    "config", None, "Python file with a get_config(): path.py, or path.py:name=value,... for its arguments."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; the same command goes on from there.")
_DATA = flags.DEFINE_string(
    "data", None, "Train on other data than the config's: a folder of pictures with texts, or tfds:NAME."
)
_EVAL_ONLY = flags.DEFINE_bool(
    "eval_only",
    False,
    "Evaluate the last checkpoint of --workdir, or of --workdir=DIRECTORY@STEP; no training.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, for several processes where JAX does not find them itself."
)
_PROCESSES = flags.DEFINE_integer(
    "processes", None, "Number of processes, with --coordinator.", lower_bound=1
)
_PROCESS = flags.DEFINE_integer("process", None, "Index of this process, with --coordinator.", lower_bound=0)
_TRACEBACK = flags.DEFINE_bool(
    "traceback", False, "Show where a mistake in the call or the config was found."
)

# Exit codes: of a mistake that trying again does not mend, and of a run that was asked to stop, is saved, and
# goes on when it is started again.
_MISTAKE = 78
_STOPPED = 85
# Of a process that ends at once on Ctrl-C, as shells have it.
_ABORTED = 130


def main(argv):
    try:
        return _run(argv[1:])
    except ValueError as error:
        if _TRACEBACK.value or not _raised_by_mmjax(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return _MISTAKE
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint, or begins anew without one")
        return _ABORTED


def _run(overrides):
    if _EVAL_ONLY.value:
        return _evaluate(overrides)
    if not _CONFIG.value or not _WORKDIR.value:
        raise ValueError("--config=FILE.py and --workdir=DIRECTORY are both needed; --help says more")
    cfg = config.override(_config(), overrides)
    # Not at the top of the file: `--help` and a misspelt flag answer without importing JAX.
    from mmjax import loop

    _start()
    try:
        cfg.run(pathlib.Path(_WORKDIR.value))
    except loop.Interrupted as stopped:
        print(f"{stopped}; the same command goes on from there")
        return _STOPPED
    return 0


def _evaluate(overrides):
    if not _WORKDIR.value:
        raise ValueError("--eval_only needs --workdir=DIRECTORY of a run; --help says more")
    if _DATA.value and not _CONFIG.value:
        raise ValueError(f"--data={_DATA.value} puts data into a config; give --config=FILE.py, too")
    others = [each for each in overrides if not re.match(r"evals\b", each)]
    if others:
        raise ValueError(f"{others[0]} changes nothing of an evaluation; with --eval_only only evals.* does")
    # After the config, which may be wrong, and not at the top of the file, as above.
    of_file = config.override(_config(), overrides) if _CONFIG.value else None
    from mmjax.serve import evaluate

    _start()
    evaluate.evaluate(_WORKDIR.value, of_file, overrides)
    return 0


def _config():
    """The config of the file, with the data of --data."""
    cfg = config.load(_CONFIG.value)
    if not _DATA.value:
        return cfg
    changed = cfg.with_data(_DATA.value)
    print(f"--data={_DATA.value}: {cfg.changes(changed)}")
    return changed


def _start():
    from mmjax import runtime

    runtime.start(coordinator=_COORDINATOR.value, processes=_PROCESSES.value, process=_PROCESS.value)


def _raised_by_mmjax(error) -> bool:
    """Whether our own check raised it; a ValueError from within a library is a bug to be seen whole."""
    frames = traceback.extract_tb(error.__traceback__)
    return pathlib.Path(frames[-1].filename).is_relative_to(pathlib.Path(__file__).parent)


if __name__ == "__main__":
    app.run(main)
