"""Multinomial logistic regression on embeddings, by L-BFGS, its rows spread over all devices.

Liu and Nocedal 1989, doi:10.1007/BF01589116. The objective is scikit-learn's, whose C is 1 / (l2 N): the mean
cross-entropy in nats plus l2 / 2 times the squared norm of the weights; the bias is free.

Letters: N examples, B the same with padding, D features, C classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmjax import sharding
from mmjax.sharding import MeshShape

_TOLERANCE = 1e-5  # of the largest slope
_STEPS = 500


class Linear(NamedTuple):
    """A fitted classifier."""

    weight_DC: np.ndarray
    bias_C: np.ndarray

    def __call__(self, x_ND: np.ndarray) -> np.ndarray:
        """Logits, float32 [N, C]."""
        return x_ND.astype(np.float32) @ self.weight_DC + self.bias_C


def fit(
    x_ND: np.ndarray,
    label_N: np.ndarray,
    *,
    classes: int,
    l2: Sequence[float],
    weight_N: np.ndarray | None = None,
) -> list[Linear]:
    """One classifier for each of `l2`, in its order; each fit starts from the one before.

    Args:
        x_ND: features, the same in every process.
        label_N: int, below `classes`.
        l2: strengths of the regulariser, positive; from strong to weak is fastest.
        weight_N: how much each example counts; zero leaves it out. None counts all alike.
    """
    weight_N = np.ones(len(x_ND), np.float32) if weight_N is None else np.asarray(weight_N, np.float32)
    share_N = weight_N / weight_N.sum()
    # Around its mean the problem is far better conditioned; the bias takes the mean up again.
    mean_D = share_N @ np.asarray(x_ND, np.float32)
    mesh = sharding.make_mesh(MeshShape())
    rows = sharding.put_rows(mesh, (x_ND.astype(np.float32) - mean_D, label_N.astype(np.int32), share_N))
    params = np.zeros((x_ND.shape[1], classes), np.float32), np.zeros(classes, np.float32)
    found = []
    with jax.set_mesh(mesh):
        for strength in l2:
            params = _minimise(params, rows, np.float32(strength))
            weight_DC, bias_C = jax.device_get(params)
            found.append(Linear(weight_DC, bias_C - mean_D @ weight_DC))
    return found


def probabilities(logits_NC: np.ndarray) -> np.ndarray:
    """Softmax over the classes, float64."""
    exp_NC = np.exp((logits_NC - logits_NC.max(axis=1, keepdims=True)).astype(np.float64))
    return exp_NC / exp_NC.sum(axis=1, keepdims=True)


@jax.jit
def _minimise(params, rows, l2):
    def loss(params):
        x_BD, label_B, share_B = rows
        weight_DC, bias_C = params
        logits_BC = jnp.dot(x_BD, weight_DC, precision="highest") + bias_C
        nats_B = optax.softmax_cross_entropy_with_integer_labels(logits_BC, label_B)
        return jnp.sum(share_B * nats_B) + l2 / 2 * jnp.sum(weight_DC**2)

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        params, state, _, i = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        slope = jnp.maximum(*(jnp.max(jnp.abs(leaf)) for leaf in grad))
        return optax.apply_updates(params, updates), state, slope, i + 1

    def goes_on(carry):
        _, _, slope, i = carry
        return (slope > _TOLERANCE) & (i < _STEPS)

    params = jax.tree.map(jnp.asarray, params)
    return jax.lax.while_loop(goes_on, step, (params, solver.init(params), jnp.inf, 0))[0]
