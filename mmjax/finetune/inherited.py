"""What a finetune takes over from finished runs: its checkpoint, and the teacher of a contrastive one."""

import dataclasses
from typing import Any, NamedTuple

from mmjax import config
from mmjax.data import pipeline
from mmjax.data.geometry import Preprocess
from mmjax.data.tokenizers import TokenizerConfig
from mmjax.finetune import base as bases
from mmjax.finetune.backbone import Backbone
from mmjax.finetune.base import Base
from mmjax.finetune.teacher import check_rows, scale_of
from mmjax.finetune.weights import NEW
from mmjax.objectives.distilled import DistilledInfoNCE


class Runs(NamedTuple):
    """What `init_from` and `teacher` name; one of them at least."""

    base: Base | None
    teacher: Base | None

    @property
    def first(self) -> Base:
        """The one that gives what the config leaves out."""
        return self.base or self.teacher


def find(cfg) -> Runs:
    """The runs of a `Contrast`; raises ValueError where one is not there."""
    return Runs(base=_find(cfg, cfg.init_from), teacher=_find(cfg, cfg.teacher))


def find_base(cfg) -> Base | None:
    """The checkpoint alone."""
    return _find(cfg, cfg.init_from)


def _find(cfg, path: str | None) -> Base | None:
    return None if path is None else bases.find(path, config.packages(cfg))


def is_new(cfg, name: str) -> bool:
    """Whether the tower of a modality begins anew."""
    given = cfg.towers.get(name)
    return cfg.init_from is None or (given is not None and given.adapt.fresh == NEW.fresh)


def of_checkpoint(name: str, tower: Backbone, base: Base) -> Backbone:
    """The tower of a modality with what it takes from the checkpoint.

    Raises:
        ValueError: the checkpoint has no such tower, or only a part of it, or reads other rows of ids.
    """
    there = base.tower(name)
    if tower.adapt.fresh != NEW.fresh:
        base.check_whole(name)
    module = tower.tune.module(tower.module or there)
    tokenizer = _tokenizer(tower.tokenizer, base.config.tokenizer) if name == "text" else None
    return dataclasses.replace(tower, module=module, tokenizer=tokenizer)


def check_preprocess(given: Preprocess, there: Preprocess):
    """Raises ValueError where pictures are prepared otherwise than the checkpoint's were."""
    if given != dataclasses.replace(there, size=given.size):
        raise _other("preprocess", given, there, "its size")


def _tokenizer(given: TokenizerConfig | None, there: TokenizerConfig) -> TokenizerConfig:
    """`there` where none is given; weights depend on neither the length of rows nor which end is cut."""
    found = given or there
    if found != there and found != dataclasses.replace(there, length=found.length, truncate=found.truncate):
        raise _other("tokenizer", found, there, "its length")
    return found


def resolved(cfg, runs: Runs):
    """A `Contrast` with all that it takes from its runs.

    Raises:
        ValueError: the checkpoint lacks a tower or an objective, or prepares pictures or texts otherwise.
    """
    base, of_run = runs.base, runs.first.config
    given = cfg.towers or {name: Backbone() for name in (base.config.towers if base else ())}
    towers = {name: _tower(cfg, name, tower, runs) for name, tower in given.items()}
    preprocess, there = cfg.preprocess, of_run.preprocess
    if "image" in towers and preprocess is None and there is not None:
        preprocess = dataclasses.replace(there, size=pipeline.size(cfg.data)[0])
    if "image" in towers and not is_new(cfg, "image"):
        check_preprocess(preprocess, there)
    return dataclasses.replace(
        cfg,
        init_from=base and base.name,
        teacher=runs.teacher and runs.teacher.name,
        towers=towers,
        objective=_objective(cfg, runs),
        preprocess=preprocess,
    )


def vocabulary(given, cfg, runs: Runs) -> Base | None:
    """The run whose tokenizer is copied; None where one is made, or there are no texts.

    Args:
        given: a `Contrast` as it was given; where it says nothing of a tokenizer, it takes one over.
        cfg: the same, resolved.

    Raises:
        ValueError: the teacher reads other rows of ids.
    """
    if cfg.tokenizer is None:
        return None
    takes = not is_new(given, "text") or given.towers["text"].tokenizer is None
    found = runs.first if takes else None
    if runs.teacher is not None:
        check_rows(runs.teacher, cfg.tokenizer, None if found is None else found.tokenizer().model)
        return runs.teacher
    return found


def _tower(cfg, name: str, tower: Backbone, runs: Runs) -> Backbone:
    if is_new(cfg, name):
        if tower.module is None:
            raise ValueError(f"towers.{name} begins anew, but has no module; give it one")
        there, module = runs.first.config.tokenizer if name == "text" else None, tower.module
        module = tower.tune.module(module)
        return dataclasses.replace(tower, module=module, tokenizer=tower.tokenizer or there)
    return of_checkpoint(name, tower, runs.base)


def _objective(cfg, runs: Runs):
    objective = cfg.objective
    if objective is None:
        if runs.base is None:
            raise ValueError("objective=None means that of init_from, which is None, too; give one")
        objective = runs.base.objective()
    if runs.teacher is not None and isinstance(objective, DistilledInfoNCE):
        if objective.teacher_scale is None:
            return objective.clone(teacher_scale=scale_of(runs.teacher))
    return objective


def _other(field: str, given: Any, there: Any, free: str) -> ValueError:
    return ValueError(
        f"{field}={given} differs from the checkpoint's {there} in more than {free}; leave it out, or change "
        f"{free} alone"
    )
