"""Several towers, each with what of it is trained."""

import dataclasses
import functools

import jax

from mmjax.finetune.trees import pick, together
from mmjax.finetune.tune import Tune
from mmjax.optim import Optim, Towers, frozen
from mmjax.optim.paths import map_paths


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuned:
    """A tuning of the parameters of all towers, {modality: ...}, made of one for each (`tune`)."""

    tunes: dict[str, Tune]
    others: tuple[str, ...]  # parts beside the towers that are trained, too, such as "head"

    def start(self, params):
        """The part of the parameters that training begins with."""
        return _joined(self.tunes[name].start({name: x}) for name, x in params.items())

    def fixed(self, params):
        """The part that it leaves as it is."""
        return _joined(self.tunes[name].fixed({name: x}) for name, x in params.items())

    def begin(self, key, start, fixed):
        """What of the towers, or beside them, is trained."""
        return _joined(
            tune.begin(jax.random.fold_in(key, i), _part(start, name), _part(fixed, name))
            for i, (name, tune) in enumerate(self.tunes.items())
        )

    def merged(self, trained, fixed):
        """All parameters of the towers."""
        found = {}
        for modality, tune in self.tunes.items():
            of_tower = map_paths(lambda path, _, modality=modality: self.tower_of(path) == modality, trained)
            found |= tune.merged(pick(trained, of_tower), _part(fixed, modality))
        return found

    def tower_of(self, path: str) -> str | None:
        """Which tower a trained parameter changes; None for those of something else.

        Its path begins with the modality, or with what kind of change it is and then the modality.
        """
        kind, _, rest = path.partition("/")
        if kind in self.others:
            return None
        return kind if kind in self.tunes else rest.partition("/")[0]

    def towers(self, trained, fixed) -> Towers:
        """Of what is trained, for layer-wise decay."""
        return Towers(jax.eval_shape(self.merged, trained, fixed), self.tower_of)

    def learning(self, optim: Optim, trained) -> set[str]:
        """The towers that are trained, or beside which something is."""
        found = frozen(optim, trained)
        return set(jax.tree.leaves(map_paths(lambda path, yes: None if yes else self.tower_of(path), found)))


def _joined(parts):
    return functools.reduce(together, parts, {})


def _part(tree, name: str):
    return {name: tree[name]} if name in tree else {}
