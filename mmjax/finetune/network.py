"""Towers, their fusion and the heads as pure functions of what is trained and what is not.

Letters: B batch, H W C image, S positions, C classes, E embedding.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmjax.data import colour
from mmjax.data.geometry import Preprocess
from mmjax.finetune.context import Prompts
from mmjax.finetune.matching import Paired
from mmjax.finetune.trees import together
from mmjax.finetune.tune import Tune
from mmjax.finetune.tuned import Tuned
from mmjax.towers import Encoded, batch_norm, text
from mmjax.towers.extended import Extended

HEAD, FUSION = "head", "fusion"


class Found(NamedTuple):
    logits: dict[str, jax.Array]  # [B, C] by task
    statistics: dict[str, Any]  # running ones of towers in training, by modality and path
    pairs: dict[str, Paired]  # that the logits of a matching task are of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """What of a classification does not change while it is trained."""

    towers: dict[str, nn.Module | Extended]  # by modality
    tunes: dict[str, Tune]  # of each tower
    fusion: nn.Module
    heads: dict[str, nn.Module]  # by task
    preprocess: Preprocess | None  # of pictures
    rows: dict[str, tuple[tuple[int, ...], str]]  # shape and dtype of an example, by modality

    @classmethod
    def of(cls, cfg) -> "Network":
        """Of a resolved `Classify`."""
        rows = {name: (field.shape, field.dtype) for name, field in cfg.data.fields.items()}
        if "image" in cfg.towers:
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

    @property
    def tuned(self) -> Tuned:
        """What of the towers is trained."""
        return Tuned(tunes=self.tunes, others=(HEAD, FUSION))

    def fixed_heads(self, params):
        """The part of the heads' parameters that training leaves as it is, of {"head": {task: ...}}."""
        found = {
            task: head.fixed(params[HEAD][task])
            for task, head in self.heads.items()
            if isinstance(head, Prompts)
        }
        return {HEAD: found} if found else {}

    def params(self, trained, fixed):
        """All parameters: {modality: ..., "fusion": ..., "head": {task: ...}}."""
        own = {name: trained[name] for name in (HEAD, FUSION) if name in trained}
        if HEAD in own:
            own[HEAD] = together(own[HEAD], fixed.get(HEAD, {}))
        return {**own, **self.tuned.merged(trained, fixed)}

    def __call__(
        self,
        params,
        inputs,
        *,
        key=None,
        learning: Collection[str] = (),
        pair: Mapping[str, Callable[[jax.Array, dict[str, Encoded]], Paired]] = {},
    ) -> Found:
        """
        Args:
            key: of what is random in training; None evaluates.
            learning: towers that are trained: others behave in training as in evaluation.
            pair: by task, how examples are paired anew in training, given a key and what the towers say.
        """
        encoded, statistics = {}, {}
        for i, name in enumerate(self.towers):  # whose order a batch loses on its way through `jit`
            x = inputs[name]
            if key is None or name not in learning:
                encoded[name] = self.encode(name, params, x)
            else:
                own_key, follow = jax.random.fold_in(key, i), self.tunes[name].whole
                encoded[name], statistics[name] = batch_norm.apply_in_training(
                    self.towers[name], params[name], x, own_key, follow=follow
                )
        lengths, count = self._lengths(inputs), len(inputs) + 1 + len(self.heads)
        own = [name for name in self.heads if name not in pair]
        logits, pairs = self._judged(own, params, encoded, lengths, key) if own else {}, {}
        for i, (name, of_batch) in enumerate(pair.items()):
            pairs[name] = of_batch(jax.random.fold_in(key, count + i), encoded)
            anew = pairs[name].rows(encoded), pairs[name].rows(lengths)
            logits |= self._judged([name], params, *anew, key)
        return Found(logits, {name: found for name, found in statistics.items() if found}, pairs)

    def _judged(self, tasks: Collection[str], params, encoded, lengths, key) -> dict[str, jax.Array]:
        """Logits of some tasks by what the towers say; `key` as in `__call__`."""
        # Of each module, whichever tasks are asked for.
        number = {name: len(encoded) + i for i, name in enumerate((FUSION, *self.heads))}

        def apply(name, module, params, *args):
            rngs = {} if key is None else {"dropout": jax.random.fold_in(key, number[name])}
            return module.apply({"params": params}, *args, train=key is not None, rngs=rngs)

        fused = apply(FUSION, self.fusion, params.get(FUSION, {}), encoded, lengths)
        return {name: apply(name, self.heads[name], params[HEAD][name], *fused) for name in tasks}

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
