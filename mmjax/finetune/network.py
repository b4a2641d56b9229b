"""Towers, their fusion and the heads as pure functions of what is trained and what is not.

Letters: B batch, H W C image, S positions, C classes, E embedding.
"""

import dataclasses
import functools
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmjax.data import colour
from mmjax.data.geometry import Preprocess
from mmjax.finetune.pruned import Pruned
from mmjax.finetune.trees import pick, together
from mmjax.finetune.tune import Tune
from mmjax.optim.paths import map_paths
from mmjax.towers import Encoded, batch_norm, text

HEAD, FUSION = "head", "fusion"


class Found(NamedTuple):
    logits: dict[str, jax.Array]  # [B, C] by task
    statistics: dict[str, Any]  # running ones of towers in training, by modality and path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """What of a classification does not change while it is trained."""

    towers: dict[str, nn.Module]  # by modality
    tunes: dict[str, Tune]  # of each tower
    fusion: nn.Module
    heads: dict[str, nn.Module]  # by task
    preprocess: Preprocess
    rows: dict[str, tuple[tuple[int, ...], str]]  # shape and dtype of an example, by modality

    @classmethod
    def of(cls, cfg) -> "Network":
        """Of a resolved `Classify`."""
        rows = {name: (field.shape, field.dtype) for name, field in cfg.data.fields.items()}
        rows["image"] = (cfg.preprocess.size, cfg.preprocess.size, 3), "float32"
        if "text" in cfg.towers:
            rows["text"] = (cfg.tokenizer.length,), "int32"
        return cls(
            towers={modality: tower.module for modality, tower in cfg.towers.items()},
            tunes={modality: tower.tune for modality, tower in cfg.towers.items()},
            fusion=cfg.fusion,
            heads={name: task.head for name, task in cfg.tasks.items()},
            preprocess=cfg.preprocess,
            rows={modality: rows[modality] for modality in cfg.towers},
        )

    def examples(self, rows: int) -> dict[str, jax.Array]:
        """Inputs of the towers, all zeros: what shapes are taken from."""
        return {name: jnp.zeros((rows, *shape), dtype) for name, (shape, dtype) in self.rows.items()}

    def normalised(self, modality: str, batch):
        """What a tower sees of float32 pictures in [0, 1] or uint8 ones; all else as it is."""
        if modality != "image":
            return batch
        return colour.normalise(batch, self.preprocess.mean, self.preprocess.std)

    def tower_of(self, path: str) -> str | None:
        """Which tower a trained parameter changes; None for those of the fusion and the heads.

        Its path begins with the modality, or with what kind of change it is and then the modality.
        """
        kind, _, rest = path.partition("/")
        if kind in (HEAD, FUSION):
            return None
        return kind if kind in self.towers else rest.partition("/")[0]

    def start(self, params):
        """The part of the towers' parameters that training begins with."""
        return self._joined(self.tunes[name].start({name: x}) for name, x in params.items())

    def fixed(self, params):
        """The part that it leaves as it is."""
        return self._joined(self.tunes[name].fixed({name: x}) for name, x in params.items())

    def begin(self, key, start, fixed):
        """What of the towers, or beside them, is trained."""
        return self._joined(
            tune.begin(jax.random.fold_in(key, i), _part(start, name), _part(fixed, name))
            for i, (name, tune) in enumerate(self.tunes.items())
        )

    def params(self, trained, fixed):
        """All parameters: {modality: ..., "fusion": ..., "head": {task: ...}}."""
        own = {name: trained[name] for name in (HEAD, FUSION) if name in trained}
        for modality, tune in self.tunes.items():
            of_tower = map_paths(lambda path, _, modality=modality: self.tower_of(path) == modality, trained)
            own |= tune.merged(pick(trained, of_tower), _part(fixed, modality))
        return own

    def after_step(self, before, state):
        """A state after a step from the parameters `before`, with the zeros that pruned towers have."""
        for name, tune in self.tunes.items():
            if isinstance(tune, Pruned):
                one = {name: state["params"][name]}
                params = tune.after_step(state["step"], {name: before[name]}, one)
                state = state | {"params": state["params"] | params}
                if "ema" in state:
                    average = tune.zeroed({name: state["ema"][name]}, params)
                    state = state | {"ema": state["ema"] | average}
        return state

    def __call__(self, params, inputs, *, key=None, learning: Collection[str] = ()) -> Found:
        """
        Args:
            key: of what is random in training; None evaluates.
            learning: towers that are trained: others behave in training as in evaluation.
        """
        encoded, statistics = {}, {}
        for i, (name, x) in enumerate(inputs.items()):
            if key is None or name not in learning:
                encoded[name] = self.encode(name, params, x)
            else:
                encoded[name], statistics[name] = batch_norm.apply_in_training(
                    self.towers[name], params[name], x, jax.random.fold_in(key, i)
                )
        used = [(FUSION, self.fusion), *self.heads.items()]
        keys = [None if key is None else jax.random.fold_in(key, len(inputs) + i) for i in range(len(used))]

        def apply(module, params, key, *args):
            rngs = {} if key is None else {"dropout": key}
            return module.apply({"params": params}, *args, train=key is not None, rngs=rngs)

        fused = apply(self.fusion, params.get(FUSION, {}), keys[0], encoded, self._lengths(inputs))
        logits = {
            name: apply(head, params[HEAD][name], head_key, *fused)
            for (name, head), head_key in zip(self.heads.items(), keys[1:], strict=True)
        }
        return Found(logits, {name: found for name, found in statistics.items() if found})

    def encode(self, modality: str, params, inputs) -> Encoded:
        """What one tower says in evaluation."""
        return self.towers[modality].apply({"params": params[modality]}, inputs)

    def init_heads(self, key, params):
        """Parameters of the heads, and of the fusion where it has any, from the shapes of what towers say.

        Raises:
            ValueError: the fusion, or a head, is not for what it is given.
        """
        inputs = self.examples(1)
        encoded = jax.eval_shape(lambda: {name: self.encode(name, params, x) for name, x in inputs.items()})
        encoded = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), encoded)
        fused, fusion = self.fusion.init_with_output(key, encoded, self._lengths(inputs))
        heads = {
            name: head.init(jax.random.fold_in(key, i), *fused)["params"]
            for i, (name, head) in enumerate(self.heads.items())
        }
        return {HEAD: heads} | ({FUSION: fusion["params"]} if fusion else {})

    def _lengths(self, inputs):
        """[B] by modality: tokens of each text; None for all else, and where padding is a token."""
        pads = {name: getattr(self.towers[name], "pad", None) if name == "text" else None for name in inputs}
        return {name: text.lengths(x, pads[name]) for name, x in inputs.items()}

    @staticmethod
    def _joined(parts):
        return functools.reduce(together, parts, {})


def _part(tree, name: str):
    return {name: tree[name]} if name in tree else {}
