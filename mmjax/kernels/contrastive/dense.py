"""Dense contrastive losses: the whole B x B matrix of logits at once, for batches of a few thousand pairs.

Letters: B batch, E embedding.
"""

import jax
import jax.numpy as jnp


def infonce(x_BE, y_BE, scale):
    """Symmetric InfoNCE over the global batch, in nats.

    Radford et al. 2021, arXiv:2103.00020, figure 3; van den Oord et al. 2018, arXiv:1807.03748, eq. 4.
    Pair i of the batch is the one positive of row i and of column i.

    Args:
        x_BE, y_BE: unit-norm embeddings of two modalities, their batch axis sharded or not.
        scale: scalar, 1 / temperature.

    Returns:
        Scalar float32; log(B) for embeddings that carry no information.

    Raises:
        ValueError: the two batches differ in shape.
    """
    logits_BB = scale * _similarities(x_BE, y_BE)
    log_x_BB = jax.nn.log_softmax(logits_BB, axis=1)
    log_y_BB = jax.nn.log_softmax(logits_BB, axis=0)
    return -jnp.mean(jnp.diagonal(log_x_BB) + jnp.diagonal(log_y_BB)) / 2


def sigmoid(x_BE, y_BE, scale, bias):
    """The pairwise sigmoid loss: each of the B x B pairs is a yes-or-no question, in nats an example.

    Zhai et al. 2023, arXiv:2303.15343, eq. 1: -(1/B) sum_ij log sigmoid(z_ij (scale x_i . y_j + bias)),
    with z_ij = 1 on the diagonal and -1 elsewhere.

    Args:
        x_BE, y_BE: unit-norm embeddings of two modalities, their batch axis sharded or not.
        scale, bias: scalars.

    Returns:
        Scalar float32.

    Raises:
        ValueError: the two batches differ in shape.
    """
    logits_BB = scale * _similarities(x_BE, y_BE) + bias
    sign_BB = 2 * jnp.eye(len(x_BE), dtype=logits_BB.dtype) - 1
    return -jnp.sum(jax.nn.log_sigmoid(sign_BB * logits_BB)) / len(x_BE)


def _similarities(x_BE, y_BE):
    if x_BE.shape != y_BE.shape:
        raise ValueError(f"pairs need equal shapes, got {x_BE.shape} and {y_BE.shape}")
    # float32: at temperature 0.01 logits reach 100, where bfloat16 values are 0.5 apart. The CPU's and the
    # GPU's default precision is full for float32; the TPU's is not.
    dtype = jnp.promote_types(x_BE.dtype, jnp.float32)
    return jnp.dot(x_BE, y_BE.T, precision="highest", preferred_element_type=dtype)
