"""The train state of a contrastive run and the pure function that makes one step of it.

Letters: B batch, H W C image, S positions, E embedding.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax import health, training
from mmjax.contrastive import accumulation, modalities
from mmjax.model import check_embeddings, unit
from mmjax.optim import Towers


class First(NamedTuple):
    """What a run begins with, from its seed alone."""

    params: dict[str, Any]  # by modality, and "objective"
    memory: dict[str, Any]  # what the objective remembers (`objectives.queue`); mostly nothing
    key: jax.Array  # every step draws from it


def first(cfg, batch_size: int, beside: Mapping[str, jax.ShapeDtypeStruct] | None = None) -> First:
    """All of it from `cfg.seed`.

    Args:
        cfg: a `Pretrain`, or a config like it.
        batch_size: of the example that shapes are taken from; it divides over the mesh, and an objective that
            remembers whole batches wants theirs.
        beside: further arrays of a batch, which the step adds.
    """
    keys, batch, inputs = _keys(cfg), *modalities.examples(cfg, batch_size)
    batch |= {name: jnp.zeros((batch_size, *x.shape[1:]), x.dtype) for name, x in (beside or {}).items()}
    made = {name: tower.init(keys[name], inputs[name]) for name, tower in cfg.modules.items()}
    encoded = {name: tower.apply(made[name], inputs[name]) for name, tower in cfg.modules.items()}
    check_embeddings(encoded)
    z = {name: unit(x.embedding_BE) for name, x in encoded.items()}
    if cfg.data.hard_texts:
        z["hard_text"] = jnp.stack([z["text"]] * cfg.data.hard_texts, axis=1)
    objective = cfg.objective.init(keys["objective"], z, batch)
    params = {name: variables["params"] for name, variables in made.items()}
    # An objective may have nothing to learn.
    params["objective"] = objective.get("params", {})
    return First(params, objective.get("memory", {}), keys["run"])


def init_tower(cfg, name: str) -> dict[str, Any]:
    """The parameters that `first` gives to the tower of a modality."""
    _, inputs = modalities.examples(cfg, 1)
    return cfg.modules[name].init(_keys(cfg)[name], inputs[name])["params"]


def _keys(cfg) -> dict[str, jax.Array]:
    """By modality, of the objective, and of the run."""
    image, text, objective, run, *more = jax.random.split(
        jax.random.key(cfg.seed), 2 + len(modalities.names(cfg))
    )
    names = ("objective", "run", *modalities.names(cfg))
    return dict(zip(names, (objective, run, image, text, *more), strict=True))


def state_of(cfg, first: First, *, towers: Towers | None = None) -> dict[str, Any]:
    """Parameters, optimizer state, step 0 and the random key of a run.

    `ema` is there where `cfg.optim.ema` asks for it: the average of the parameters, which starts as them; and
    `memory` where the objective remembers something. `towers` as of `optim.make`.
    """
    state = training.state_of(cfg, first.params, first.key, towers=towers)
    return state | ({"memory": first.memory} if first.memory else {})


def init_state(cfg, batch_size: int) -> dict[str, Any]:
    """The state that a run begins with whose parameters are all new; arguments as of `first`."""
    return state_of(cfg, first(cfg, batch_size))


def make_step(
    cfg,
    *,
    whole: Callable = lambda trained: trained,
    locked: Collection[str] = (),
    beside: Callable | None = None,
    towers: Callable[..., Towers | None] = lambda trained, *fixed: None,
) -> Callable:
    """`(state, batch, *fixed) -> (state, metrics)`, pure: one step of training on one global batch.

    Args:
        whole: `(trained, *fixed)` -> all parameters.
        locked: modalities whose tower behaves as in evaluation.
        beside: `(batch, keys, *fixed)` -> further arrays of a batch, of which nothing is learned.
        towers: `(trained, *fixed)` -> `towers` of `optim.make`.
    """

    def step(state, batch, *fixed):
        key = training.step_key(state)
        if beside is not None:
            found = accumulation.by_parts(cfg, lambda *drawn: beside(*drawn, *fixed), batch, key)
            batch = batch | jax.lax.stop_gradient(found)
        (value, (found, z, statistics, memory)), grads = accumulation.value_and_grad(
            cfg,
            state["params"],
            batch,
            key,
            state.get("memory"),
            whole=lambda trained: whole(trained, *fixed),
            locked=locked,
        )
        of_towers = towers(state["params"], *fixed)
        new, of_update = training.update(cfg, state, grads, statistics, towers=of_towers)
        if "memory" in state:
            new["memory"] = memory
        found |= {"loss": value} | of_update
        # Costly, and read only where the loop writes metrics.
        written = (new["step"] % cfg.log_every == 0) | (new["step"] == cfg.steps)
        scale, bias = found.get("scale", 1.0), found.get("bias", 0.0)
        pair, present_B = modalities.first_pair(cfg, z, batch)
        found |= health.measure(pair, scale, bias, present_B=present_B, when=written)
        return new, found

    return step


def compile_step(cfg, mesh: Mesh, layout, shapes, batch):
    """`make_step`, compiled for the mesh; the state keeps its layout and its memory."""
    return training.compile_step(make_step(cfg), mesh, layout, shapes, batch)
