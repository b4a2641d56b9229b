"""What a run with int8 weights says of itself: the config of its workdir."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax

from mmjax import sharding
from mmjax.checkpoint import restore_params
from mmjax.evals import Evaluator
from mmjax.finetune import int8
from mmjax.finetune.classifier import Classifier
from mmjax.finetune.int8 import Activations
from mmjax.model import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantized:
    """The run that it was made of, and how its weights are stored and used."""

    original: Any  # the config of the run
    evals: dict[str, Evaluator]
    activations: Activations
    keep: str | None

    def load(
        self, workdir: pathlib.Path, checkpoints: pathlib.Path, step: int, *, average: bool
    ) -> Model | Classifier:
        """What `mmjax.load` calls; there is no average beside the weights, which may be one."""
        model = self.original.load(workdir, checkpoints, step, average=False, read=self._read)
        out = sharding.replicated(model.mesh)

        def compute(function, activations):
            return int8.computing(function, activations, out_shardings=out)

        if isinstance(model, Classifier):
            functions = jax.tree.map(lambda each: compute(each, self.activations), model.functions)
            return dataclasses.replace(model, config=self, functions=functions)
        encoders = {name: compute(each, self.activations) for name, each in model.encoders.items()}
        # Maps are slopes, of which rounded activations have none.
        maps = None if model.maps is None else compute(model.maps, "none")
        return dataclasses.replace(model, config=self, encoders=encoders, maps=maps)

    def _read(self, checkpoints: pathlib.Path, params, step: int, *, item: str):
        """In place of `restore_params`: the integers of the float32 parameters that are asked for."""
        mesh = jax.tree.leaves(params)[0].sharding.mesh
        shapes = jax.eval_shape(functools.partial(int8.quantised, keep=self.keep), params)
        wanted = sharding.with_layout(shapes, sharding.shardings(mesh, shapes))
        return restore_params(checkpoints, wanted, step, item=item)
