"""The train state of a classification and the pure function that makes one step of it.

Letters: B batch, C classes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import optim, training
from mmjax.data import colour
from mmjax.finetune import loss
from mmjax.finetune.network import HEAD, Network


def init_state(cfg, network: Network, start, fixed, kernel_EC=None):
    """The state that training begins with, from `cfg.seed` alone and what comes of the checkpoint.

    Args:
        cfg: a resolved `Classify`.
        start, fixed: what `network.tune` makes of the tower's parameters.
        kernel_EC: of the head, in place of zeros.
    """
    head_key, tune_key, run_key = jax.random.split(jax.random.key(cfg.seed), 3)
    trained = network.tune.begin(tune_key, start, fixed)
    tower = network.tune.merged(trained, fixed)[network.modality]
    head = network.init_head(head_key, tower, network.examples(1))
    if kernel_EC is not None:
        head = head | {"logits": head["logits"] | {"kernel": kernel_EC}}
    return training.state_of(cfg, {**trained, HEAD: head}, run_key)


def learns(cfg, trained) -> bool:
    """Whether anything but the head is trained."""
    frozen = optim.frozen(cfg.optim, trained)
    return not all(jax.tree.leaves({name: x for name, x in frozen.items() if name != HEAD}))


def make_step(cfg, network: Network, weight_C: np.ndarray) -> Callable:
    """`(state, batch, fixed) -> (state, metrics)`, pure: one step of training on one global batch."""

    def step(state, batch, fixed):
        key = training.step_key(state)

        def of(trained):
            return value(cfg, network, weight_C, trained, fixed, batch, key)

        (loss_, (found, statistics)), grads = jax.value_and_grad(of, has_aux=True)(state["params"])
        waits = state["step"] < cfg.tower.frozen_steps
        still = {name: waits for name in state["params"] if name != HEAD} if cfg.tower.frozen_steps else {}
        for name in still:
            grads |= {name: jax.tree.map(lambda x: jnp.where(waits, 0, x), grads[name])}
        new, of_update = training.update(cfg, state, grads, statistics, still=still)
        return new, found | {"loss": loss_} | of_update

    return step


def value(cfg, network: Network, weight_C, trained, fixed, batch, key):
    """The loss on a batch in training, and (metrics, running statistics)."""
    colour_key, mix_key, network_key = jax.random.split(key, 3)
    trained = optim.stop_frozen(cfg.optim, trained)
    inputs, target_BC = batch[network.modality], batch["label"].astype(jnp.float32)
    if network.modality == "image":
        inputs = colour.augment(cfg.colour, inputs, colour_key)
        inputs, mixed_BC = loss.mixed(cfg.regular, inputs, target_BC, mix_key)
    else:
        mixed_BC = target_BC
    params = network.params(trained, fixed)
    found = network(params, network.normalised(inputs), key=network_key, learns=learns(cfg, trained))
    entropy = loss.binary_cross_entropy if cfg.labels.several else loss.cross_entropy
    loss_ = entropy(found.logits_BC, mixed_BC, weight_C, smoothing=cfg.regular.smoothing)
    if cfg.labels.several:
        right = (found.logits_BC > 0) == (target_BC > 0)
    else:
        right = found.logits_BC.argmax(axis=1) == target_BC.argmax(axis=1)
    return loss_, ({"accuracy": jnp.mean(right.astype(jnp.float32))}, found.statistics)
