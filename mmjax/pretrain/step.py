"""The train state of a pretraining run and the pure function that makes one step of it.

Letters: B batch, H W C image, S positions, E embedding.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from mmjax import health, training
from mmjax.model import check_pair, unit
from mmjax.pretrain import accumulation
from mmjax.pretrain.loss import examples


def init_state(cfg, batch_size: int) -> dict[str, Any]:
    """Parameters, optimizer state, step 0 and the random key of a run, from `cfg.seed` alone.

    `ema` is there where `cfg.optim.ema` asks for it: the average of the parameters, which starts as them.

    Args:
        cfg: a `Pretrain`.
        batch_size: of the example that shapes are taken from; any that divides over the mesh.
    """
    image_key, text_key, objective_key, run_key = jax.random.split(jax.random.key(cfg.seed), 4)
    inputs = examples(cfg, batch_size)
    image, image_params = cfg.towers["image"].init_with_output(image_key, inputs["image"])
    text, text_params = cfg.towers["text"].init_with_output(text_key, inputs["text"])
    check_pair(image, text)
    z = {"image": unit(image.embedding_BE), "text": unit(text.embedding_BE)}
    objective_params = cfg.objective.init(objective_key, z, {})
    params = {
        "image": image_params["params"],
        "text": text_params["params"],
        # An objective may have nothing to learn.
        "objective": objective_params.get("params", {}),
    }
    return training.state_of(cfg, params, run_key)


def make_step(cfg) -> Callable:
    """`(state, batch) -> (state, metrics)`, pure: one step of training on one global batch."""

    def step(state, batch):
        key = training.step_key(state)
        (value, (found, z, statistics)), grads = accumulation.value_and_grad(cfg, state["params"], batch, key)
        new, of_update = training.update(cfg, state, grads, statistics)
        found |= {"loss": value} | of_update
        # Costly, and read only where the loop writes metrics.
        written = (new["step"] % cfg.log_every == 0) | (new["step"] == cfg.steps)
        found |= health.measure(z, found.get("scale", 1.0), found.get("bias", 0.0), when=written)
        return new, found

    return step


def compile_step(cfg, mesh: Mesh, layout, shapes, batch):
    """`make_step`, compiled for the mesh; the state keeps its layout and its memory."""
    return training.compile_step(make_step(cfg), mesh, layout, shapes, batch)
