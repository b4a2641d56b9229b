"""The train state of a pretraining run and the pure function that makes one step of it.

Letters: B batch, H W C image, S positions, E embedding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax import health, training
from mmjax.model import check_embeddings, unit
from mmjax.pretrain import accumulation, modalities


def init_state(cfg, batch_size: int) -> dict[str, Any]:
    """Parameters, optimizer state, step 0 and the random key of a run, from `cfg.seed` alone.

    `ema` is there where `cfg.optim.ema` asks for it: the average of the parameters, which starts as them; and
    `memory` where the objective remembers something (`objectives.queue`).

    Args:
        cfg: a `Pretrain`.
        batch_size: of the example that shapes are taken from; it divides over the mesh, and an objective that
            remembers whole batches wants theirs.
    """
    names = modalities.names(cfg)
    image_key, text_key, objective_key, run_key, *more = jax.random.split(
        jax.random.key(cfg.seed), 2 + len(names)
    )
    keys = dict(zip(names, (image_key, text_key, *more), strict=True))
    batch, inputs = modalities.examples(cfg, batch_size)
    made = {name: tower.init_with_output(keys[name], inputs[name]) for name, tower in cfg.towers.items()}
    check_embeddings({name: encoded for name, (encoded, _) in made.items()})
    z = {name: unit(encoded.embedding_BE) for name, (encoded, _) in made.items()}
    if cfg.data.hard_texts:
        z["hard_text"] = jnp.stack([z["text"]] * cfg.data.hard_texts, axis=1)
    objective = cfg.objective.init(objective_key, z, batch)
    params = {name: variables["params"] for name, (_, variables) in made.items()}
    # An objective may have nothing to learn, and mostly has nothing to remember.
    params["objective"] = objective.get("params", {})
    state = training.state_of(cfg, params, run_key)
    return state | ({"memory": objective["memory"]} if "memory" in objective else {})


def make_step(cfg) -> Callable:
    """`(state, batch) -> (state, metrics)`, pure: one step of training on one global batch."""

    def step(state, batch):
        key = training.step_key(state)
        (value, (found, z, statistics, memory)), grads = accumulation.value_and_grad(
            cfg, state["params"], batch, key, state.get("memory")
        )
        new, of_update = training.update(cfg, state, grads, statistics)
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
