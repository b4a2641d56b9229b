"""The contract of exactness: what the loss and the gradients of a run have to be (docs/exactness.md).

The losses and their derivatives by embeddings and parameters are written here once more, in float64 NumPy,
from the papers' equations.

Letters: B batch, E embedding.
"""

import numpy as np
import tinyclip

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}


def infonce(x_BE, y_BE, params):
    """Loss, and its derivatives by embeddings and parameters: van den Oord et al. 2018, eq. 4, both ways."""
    scale = np.exp(np.float64(params["log_scale"]))
    similarity_BB = x_BE @ y_BE.T
    logits_BB, eye_BB = scale * similarity_BB, np.eye(len(x_BE))
    rows_BB, columns_BB = softmax(logits_BB, axis=1), softmax(logits_BB, axis=0)
    loss = -np.mean(np.log(np.diagonal(rows_BB)) + np.log(np.diagonal(columns_BB))) / 2
    slope_BB = (rows_BB + columns_BB - 2 * eye_BB) / (2 * len(x_BE))
    by_scale = np.sum(slope_BB * similarity_BB)
    return loss, (scale * slope_BB @ y_BE, scale * slope_BB.T @ x_BE), {"log_scale": scale * by_scale}


def sigmoid(x_BE, y_BE, params):
    """Loss, and its derivatives by embeddings and parameters: Zhai et al. 2023, eq. 1."""
    scale, bias = np.exp(np.float64(params["log_scale"])), np.float64(params["bias"])
    similarity_BB = x_BE @ y_BE.T
    sign_BB = 2 * np.eye(len(x_BE)) - 1
    wrong_BB = 1 / (1 + np.exp(sign_BB * (scale * similarity_BB + bias)))  # the share that the pair is wrong
    loss = -np.sum(np.log1p(-wrong_BB)) / len(x_BE)
    slope_BB = -sign_BB * wrong_BB / len(x_BE)
    by_params = {"log_scale": scale * np.sum(slope_BB * similarity_BB), "bias": np.sum(slope_BB)}
    return loss, (scale * slope_BB @ y_BE, scale * slope_BB.T @ x_BE), by_params


def softmax(logits_BB, axis):
    shifted_BB = np.exp(logits_BB - logits_BB.max(axis=axis, keepdims=True))
    return shifted_BB / shifted_BB.sum(axis=axis, keepdims=True)


LOSSES = {"infonce": infonce, "sigmoid": sigmoid}


def breaches(found, expected, tolerance):
    """Names of what is further from what it has to be than `tolerance`, relative to its norm.

    Args:
        found, expected: (loss, gradient), the gradient by part of the parameters.
    """
    (loss, gradient), (right_loss, right) = ((value, dict(parts)) for value, parts in (found, expected))
    pairs = {"loss": (loss, right_loss)}
    scalars, right_scalars = gradient.pop("objective"), right.pop("objective")
    pairs |= {name: (scalars[name], right_scalars[name]) for name in right_scalars}
    pairs |= {name: (gradient[name], right[name]) for name in right}
    # A comparison that is not true, so that what is not a number is a breach, too.
    return {name for name, pair in pairs.items() if not tinyclip.distance(*pair) <= tolerance}
