"""The train state of a classification and the pure function that makes one step of it.

Letters: B batch, C classes.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import optim, training
from mmjax.data import colour
from mmjax.finetune import loss
from mmjax.finetune.matching import Matching
from mmjax.finetune.network import FUSION, HEAD, Network
from mmjax.finetune.pruned import keeping_zeros
from mmjax.finetune.trees import without
from mmjax.optim.paths import map_paths


def init_state(cfg, network: Network, start, fixed, kernels=None, kept=None):
    """The state that training begins with, from `cfg.seed` alone and what comes of the checkpoint.

    Args:
        cfg: a resolved `Classify`.
        start, fixed: what `network` makes of the parameters of the towers, and of heads.
        kernels: [E, C] of heads by task, in place of zeros.
        kept: of "head" by task, and of "fusion", in place of what begins anew.
    """
    head_key, tune_key, run_key = jax.random.split(jax.random.key(cfg.seed), 3)
    trained = network.tuned.begin(tune_key, start, fixed)
    rest = network.init_heads(head_key, network.params(trained, fixed))
    rest[HEAD] = without(rest[HEAD], fixed.get(HEAD, {}))
    for task, kernel_EC in (kernels or {}).items():
        rest[HEAD][task]["logits"]["kernel"] = kernel_EC
    kept = kept or {}
    rest[HEAD] |= kept.get(HEAD, {})
    rest |= {FUSION: kept[FUSION]} if FUSION in kept else {}
    towers = network.tuned.towers(trained, fixed)
    return training.state_of(cfg, {**trained, **rest}, run_key, towers=towers)


def learning(cfg, network: Network, trained) -> set[str]:
    """The towers that are trained, or beside which something is."""
    return network.tuned.learning(cfg.optim, trained)


def pairings(cfg, id_B) -> dict[str, Callable]:
    """`(key, what towers say of a batch) -> its pairs`, by task that asks about pairs."""
    return {
        name: functools.partial(task.paired, id_B=id_B)
        for name, task in cfg.tasks.items()
        if isinstance(task, Matching)
    }


def make_step(cfg, network: Network, weights: dict[str, np.ndarray]) -> Callable:
    """`(state, batch, fixed) -> (state, metrics)`, pure: one step of training on one global batch.

    Args:
        weights: [C] of the classes, by task.
    """

    def step(state, batch, fixed):
        key = training.step_key(state)

        def of(trained):
            return value(cfg, network, weights, trained, fixed, batch, key)

        (loss_, (found, statistics)), grads = jax.value_and_grad(of, has_aux=True)(state["params"])
        still = _still(cfg, network, state)
        if still is not None:
            grads = jax.tree.map(lambda stays, x: jnp.where(stays, 0, x), still, grads)
        towers = network.tuned.towers(state["params"], fixed)
        new, of_update = training.update(cfg, state, grads, statistics, still=still, towers=towers)
        return new, found | {"loss": loss_} | of_update

    return keeping_zeros(step, network.tunes)


def value(cfg, network: Network, weights, trained, fixed, batch, key):
    """The loss on a batch in training, and (metrics, running statistics)."""
    colour_key, mix_key, network_key = jax.random.split(key, 3)
    trained = optim.stop_frozen(cfg.optim, trained)
    inputs = {name: batch[name] for name in network.towers}
    if "image" in inputs:
        inputs["image"] = colour.augment(cfg.colour, inputs["image"], colour_key)
    targets = {task: batch[f"label/{task}"].astype(jnp.float32) for task in cfg.tasks}
    inputs, mixed = loss.mixed(cfg.mixup, (inputs, targets), mix_key)
    inputs = {name: network.normalised(name, x) for name, x in inputs.items()}
    found = network(
        network.params(trained, fixed),
        inputs,
        key=network_key,
        learning=learning(cfg, network, trained),
        pair=pairings(cfg, batch["id"]),
    )
    loss_, metrics = 0.0, {}
    for name, task in cfg.tasks.items():
        own = task.loss(found.logits[name], (mixed | found.pairs)[name], weights[name])
        loss_ += task.weight * own
        metrics[f"{name}/loss"] = own
        metrics[f"{name}/accuracy"] = task.accuracy(found.logits[name], (targets | found.pairs)[name])
    return loss_, (metrics, found.statistics)


def _still(cfg, network: Network, state):
    """A tree of bool: the parameters of towers that wait for the heads; None where none ever does."""
    steps = {name: tower.frozen_steps for name, tower in cfg.towers.items() if tower.frozen_steps}
    if not steps:
        return None

    def stays(path, _):
        return state["step"] < steps.get(network.tuned.tower_of(path), 0)

    return map_paths(stays, state["params"])
