"""The train state of a pretraining run and the pure function that makes one step of it.

Letters: B batch, H W C image, S positions, E embedding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mmjax import health, optim, sharding
from mmjax.model import check_pair, unit
from mmjax.pretrain import accumulation
from mmjax.pretrain.loss import examples
from mmjax.towers import batch_norm


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
    state = {
        "params": params,
        "opt_state": optim.make(cfg.optim, cfg.steps).init(params),
        "step": jnp.zeros((), jnp.int32),
        "key": jax.random.key_data(run_key),
    }
    # A copy: the step is given the memory of both to write into.
    return state | ({"ema": jax.tree.map(jnp.copy, params)} if cfg.optim.ema else {})


def make_step(cfg) -> Callable:
    """`(state, batch) -> (state, metrics)`, pure: one step of training on one global batch."""
    tx = optim.make(cfg.optim, cfg.steps)
    rate = optim.learning_rate(cfg.optim, cfg.steps)

    def step(state, batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["step"])
        (value, (found, z, statistics)), grads = accumulation.value_and_grad(cfg, state["params"], batch, key)
        updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
        params = batch_norm.with_statistics(optax.apply_updates(state["params"], updates), statistics)
        new = {**state, "params": params, "opt_state": opt_state, "step": state["step"] + 1}
        if cfg.optim.ema:
            new["ema"] = optim.average(cfg.optim, state["ema"], params, state["step"])
        found |= {"loss": value, "lr": rate(state["step"]), "grad_norm": optax.tree.norm(grads)}
        for name in params:
            found[f"grad_norm/{name}"] = optax.tree.norm(grads[name])
            found[f"update_norm/{name}"] = optax.tree.norm(updates[name])
        # Costly, and read only where the loop writes metrics.
        written = (new["step"] % cfg.log_every == 0) | (new["step"] == cfg.steps)
        found |= health.measure(z, found.get("scale", 1.0), found.get("bias", 0.0), when=written)
        return new, found

    return step


def compile_step(cfg, mesh: Mesh, layout, shapes, batch):
    """`make_step`, compiled for the mesh; the state keeps its layout and its memory."""
    jitted = jax.jit(make_step(cfg), donate_argnums=0, out_shardings=(layout, sharding.replicated(mesh)))
    return jitted.lower(with_layout(shapes, layout), batch).compile()


def with_layout(shapes, layout):
    """A tree of `jax.ShapeDtypeStruct`s that say where they live."""
    return jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, layout
    )
