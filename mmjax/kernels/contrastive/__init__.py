"""The contrastive core: losses of a global batch of pairs as functions of embeddings and scale.

Objectives call these and own the learned scale and bias. The batch axis may be sharded over the mesh, and the
B x B logits are never there as a whole unless B is small: `streaming.choose` states the rule.

Letters: B batch, E embedding.
"""

import jax.numpy as jnp

from mmjax.kernels.contrastive.rules import Side, Sigmoid, Softmax
from mmjax.kernels.contrastive.streaming import Implementation, statistics

__all__ = ["Implementation", "infonce", "sigmoid"]


def infonce(x_BE, y_BE, scale, *, mesh=None, implementation: Implementation = "auto"):
    """Symmetric InfoNCE over the global batch, in nats.

    Radford et al. 2021, arXiv:2103.00020, figure 3; van den Oord et al. 2018, arXiv:1807.03748, eq. 4.
    Pair i of the batch is the one positive of row i and of column i.

    Args:
        x_BE, y_BE: unit-norm embeddings of two modalities, their batch axis sharded or not.
        scale: scalar, 1 / temperature.
        mesh: that the batch is sharded over; None is the mesh of the surrounding `jax.set_mesh`.
        implementation: "dense" holds all logits; "ring" and "gather" a tile of them. All are exact.

    Returns:
        Scalar float32; log(B) for embeddings that carry no information.

    Raises:
        ValueError: the two batches differ in shape, or do not divide over the devices of "ring", "gather".
    """
    row, column = _sides(x_BE, y_BE, scale, 0.0)
    rows, columns = statistics(Softmax(), row, column, mesh=mesh, implementation=implementation)
    right_B = row.scale * _positives(x_BE, y_BE)
    return jnp.mean((rows.peak - right_B) + rows.log_sum + (columns.peak - right_B) + columns.log_sum) / 2


def sigmoid(x_BE, y_BE, scale, bias, *, mesh=None, implementation: Implementation = "auto"):
    """The pairwise sigmoid loss: each of the B x B pairs is a yes-or-no question, in nats an example.

    Zhai et al. 2023, arXiv:2303.15343, eq. 1: -(1/B) sum_ij log sigmoid(z_ij (scale x_i . y_j + bias)),
    with z_ij = 1 on the diagonal and -1 elsewhere.

    Args:
        x_BE, y_BE, mesh, implementation: as of `infonce`.
        scale, bias: scalars.

    Returns:
        Scalar float32.

    Raises:
        ValueError: as `infonce`.
    """
    row, column = _sides(x_BE, y_BE, scale, bias)
    losses_B, _ = statistics(Sigmoid(), row, column, mesh=mesh, implementation=implementation)
    return jnp.mean(losses_B)


def _sides(x_BE, y_BE, scale, bias):
    if x_BE.shape != y_BE.shape:
        raise ValueError(f"pairs need equal shapes, got {x_BE.shape} and {y_BE.shape}")
    batch = len(x_BE)
    dtype = jnp.promote_types(jnp.promote_types(x_BE.dtype, y_BE.dtype), jnp.float32)
    scale_B, bias_B = (jnp.broadcast_to(jnp.asarray(value, dtype), batch) for value in (scale, bias))
    index_B = jnp.arange(batch, dtype=jnp.int32)
    return Side(x_BE, scale_B, bias_B, index_B), Side(y_BE, index=index_B)


def _positives(x_BE, y_BE):
    """The similarity of each pair, not read off a diagonal: its gradient would be a scatter of B x B."""
    dtype = jnp.promote_types(jnp.promote_types(x_BE.dtype, y_BE.dtype), jnp.float32)
    return jnp.sum(x_BE.astype(dtype) * y_BE.astype(dtype), axis=1)
