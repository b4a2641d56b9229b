"""Evaluators alone, on a checkpoint of a run: what `mmjax.main --eval_only` calls."""

import contextlib
import dataclasses
import json
import logging
import pathlib
from typing import Any

import jax

from mmjax import config, metrics, workdir
from mmjax.evaluation import Evaluation, check_needs, finish, licences
from mmjax.finished import checkpoint_of, config_of, split
from mmjax.serve import load

log = logging.getLogger("mmjax")


def evaluate(path: str, of_file: Any = None, overrides: list[str] | None = None) -> pathlib.Path:
    """Evaluates a run's checkpoint; returns the folder with what was found, `eval_<step>` in its workdir.

    Args:
        path: a workdir, or `<workdir>@<step>`, or `<workdir>@best`; without a step the last checkpoint.
        of_file: a config whose evaluators run; nothing else of it counts. None takes the run's own.
        overrides: `evals.*` changes of the run's config, where there is no `of_file`.

    Raises:
        ValueError: there is no such run or checkpoint, or nothing to evaluate.
    """
    run, wanted = split(path)
    packages = () if of_file is None else config.packages(of_file)
    trained = config_of(run, packages)
    evals = (config.override(trained, overrides or []) if of_file is None else of_file).evals
    if not evals:
        raise ValueError("no evaluators in the config; give --config= one whose evals are not empty")
    _, step = checkpoint_of(run, wanted)
    directory = run / f"eval_{step}"
    if jax.process_index() == 0:
        workdir.write(directory / "env.json", json.dumps(workdir.environment(), indent=2))
    metrics.start_log(directory / "log.txt" if jax.process_index() == 0 else None)
    log.info("evaluating step %d of %s with %s", step, run, ", ".join(evals))
    model = load(run, step=wanted, packages=packages)
    check_needs(evals, model.embed)
    with metrics.phase("preparing the data"):
        for evaluator in evals.values():
            evaluator.prepare()
    with contextlib.closing(metrics.Writer(directory)) as writer:
        evaluation = Evaluation(evals, step, writer)
        evaluation.run(step, model.embed)
    cfg = dataclasses.replace(trained, evals=evals)
    finish(directory, cfg, evaluation, licences(*evals.values()), run=run)
    return directory
