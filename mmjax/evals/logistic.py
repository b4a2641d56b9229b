"""Multinomial logistic regression on embeddings, by L-BFGS, its rows spread over all devices.

Liu and Nocedal 1989, doi:10.1007/BF01589116. The objective is scikit-learn's, whose C is 1 / (l2 N): the mean
cross-entropy in nats plus l2 / 2 times the squared norm of the weights; the bias is free.

Embeddings vary ten thousand times as much along some directions as along others, so that a weak regulariser
leaves a problem on which L-BFGS takes thousands of steps. It is solved along the principal axes of the
features, each scaled so that the curvature is about one: a change of variables, which moves no optimum.

Letters: N examples, B the same with padding, D features, or principal axes, C classes.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmjax import sharding
from mmjax.sharding import MeshShape

log = logging.getLogger("mmjax")

_TOLERANCE = 1e-5  # of the largest slope, of the bias or along a principal axis
_STEPS = 1_000
_CURVATURE = 0.5  # of the cross-entropy in logits, at most


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
    found, slopes = [], {}
    with jax.set_mesh(mesh):
        rows, axes_DD, variance_D = _turned(rows)
        for strength in l2:
            params, slope = _minimise(params, rows, variance_D, np.float32(strength))
            weight_DC, bias_C = jax.device_get(params)
            weight_DC = np.asarray(axes_DD) @ weight_DC
            found.append(Linear(weight_DC, bias_C - mean_D @ weight_DC))
            slopes[strength] = float(slope)
    _warn(slopes)
    return found


def probabilities(logits_NC: np.ndarray) -> np.ndarray:
    """Softmax over the classes, float64."""
    exp_NC = np.exp((logits_NC - logits_NC.max(axis=1, keepdims=True)).astype(np.float64))
    return exp_NC / exp_NC.sum(axis=1, keepdims=True)


def _warn(slopes: dict[float, float]):
    """Says which fits, by their `l2`, ended short of the optimum, and by how much."""
    short = {l2: slope for l2, slope in slopes.items() if not slope <= _TOLERANCE}
    if short:
        log.warning(
            "logistic regression: no optimum in %d steps with l2=%s; the largest slope is %.1e, wanted %.0e",
            _STEPS,
            ", ".join(f"{each:g}" for each in short),
            max(short.values()),
            _TOLERANCE,
        )


@jax.jit
def _turned(rows):
    """The rows with features along their principal axes; the axes, one a column, and the variances."""
    x_BD, label_B, share_B = rows
    covariance_DD = jnp.einsum("bd,b,be->de", x_BD, share_B, x_BD, precision="highest")
    # Every process turns its rows by, and reads, the same.
    covariance_DD = sharding.constrain(covariance_DD, None, None)
    variance_D, axes_DD = jnp.linalg.eigh(covariance_DD)
    x_BD = jnp.dot(x_BD, axes_DD, precision="highest")
    x_BD = sharding.constrain(x_BD, "batch", None)
    return (x_BD, label_B, share_B), sharding.constrain(axes_DD, None, None), jnp.maximum(variance_D, 0)


@jax.jit
def _minimise(params, rows, variance_D, l2):
    """From the given parameters along the principal axes the best ones, and the largest slope there."""
    x_BD, label_B, share_B = rows
    scale_D1 = 1 / jnp.sqrt(_CURVATURE * variance_D + l2)[:, None]

    def loss(params):
        scaled_DC, bias_C = params
        weight_DC = scale_D1 * scaled_DC
        logits_BC = jnp.dot(x_BD, weight_DC, precision="highest") + bias_C
        nats_B = optax.softmax_cross_entropy_with_integer_labels(logits_BC, label_B)
        return jnp.sum(share_B * nats_B) + l2 / 2 * jnp.sum(weight_DC**2)

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        params, state, _, i = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        slope = jnp.maximum(jnp.max(jnp.abs(grad[0] / scale_D1)), jnp.max(jnp.abs(grad[1])))
        return optax.apply_updates(params, updates), state, slope, i + 1

    def goes_on(carry):
        _, _, slope, i = carry
        return (slope > _TOLERANCE) & (i < _STEPS)

    scaled = params[0] / scale_D1, jnp.asarray(params[1])
    first = scaled, solver.init(scaled), jnp.inf, 0
    (scaled_DC, bias_C), _, slope, _ = jax.lax.while_loop(goes_on, step, first)
    # Every process reads the whole of them.
    params = sharding.constrain(scale_D1 * scaled_DC, None, None), sharding.constrain(bias_C, None)
    return params, slope
