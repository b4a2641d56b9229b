"""Where every parameter of a finetune comes from: a checkpoint, or nowhere."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from mmjax import metrics, sharding
from mmjax.finetune import adapt
from mmjax.finetune.adapt import Adapt, Step
from mmjax.finetune.base import Base

log = logging.getLogger("mmjax")

NEW = Adapt(fresh=".")  # all begins anew


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """The fate of all parameters, by modality and "head", "objective" and the like, and reading them."""

    base: Base | None  # None: all begins anew
    adapts: Mapping[str, Adapt]  # what may differ, by modality
    plans: Mapping[str, list[Step]]
    init: Callable[[str], Any]  # parameters anew, by name
    mesh: Mesh

    def report(self):
        """Logs what becomes of every parameter."""
        if self.base is None:
            log.info("all parameters begin anew")
            return
        for name, plan in self.plans.items():
            adapt.report(f"{self.base.name}: {name}", plan)

    def read(self, shapes) -> dict[str, Any]:
        """The parameters that `shapes` has, on the mesh, of the checkpoint as far as they are from there."""
        found = {}
        for name, x in shapes.items():
            part = {name: x}
            wanted = sharding.with_layout(part, sharding.shardings(self.mesh, part))
            with metrics.phase(f"{'making' if self.base is None else 'reading'} {name}"):
                begun = functools.partial(self._begun, name)
                found |= adapt.load(self.base, self.adapts[name], self.plans[name], wanted, begun)
        return found

    def _begun(self, name: str):
        def make():
            return {name: self.init(name)}

        return jax.jit(make, out_shardings=sharding.shardings(self.mesh, jax.eval_shape(make)))()


def weights_of(
    base: Base | None,
    adapts: Mapping[str, Adapt],
    shapes,
    init: Callable[[str], Any],
    mesh: Mesh,
    *,
    new: Mapping[str, str | None],
) -> Weights:
    """What a checkpoint gives to parameters of `shapes`, by modality; no array is read.

    Args:
        new: patterns of parameters that begin anew where the checkpoint lacks them, by modality.

    Raises:
        ValueError: the checkpoint lacks some of them, or has them in other shapes.
    """
    there = {} if base is None else base.shapes()
    plans = {}
    for name, x in shapes.items():
        change, held = adapts[name], {name: there[name]} if there.get(name) else {}
        if change.fresh == NEW.fresh:
            change = dataclasses.replace(change, drop="." if held else None)
        plans[name] = adapt.plan(change, held, {name: x}, new=new.get(name)) if jax.tree.leaves(x) else []
    for name in (name for name in there if name not in shapes):
        plans[name] = adapt.plan(Adapt(drop="."), {name: there[name]}, {})
    return Weights(base=base, adapts=adapts, plans=plans, init=init, mesh=mesh)
