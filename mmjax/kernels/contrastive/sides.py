"""What every contrastive loss starts and ends with: the sides of its matrix, and a mean over what is there.

Letters: B batch, E embedding, K kinds of ids.
"""

from typing import get_args

import jax.numpy as jnp

from mmjax.kernels.contrastive.rules import Duplicates, Side


def sides(x_BE, y_BE, scale, bias, ids_BK, present_B) -> tuple[Side, Side]:
    """Rows and columns of pairs of one batch. `scale` and `bias` are scalars or one for each row.

    Raises:
        ValueError: the two batches differ in shape, or the ids have another length.
    """
    if x_BE.shape != y_BE.shape:
        raise ValueError(f"pairs need equal shapes, got {x_BE.shape} and {y_BE.shape}")
    batch = len(x_BE)
    if ids_BK is not None:
        if len(ids_BK) != batch:
            raise ValueError(f"{batch} pairs need as many ids, got {len(ids_BK)}")
        ids_BK = ids_BK.reshape(batch, -1)
    dtype = wide(x_BE, y_BE)
    scale_B, bias_B = (jnp.broadcast_to(jnp.asarray(value, dtype), batch) for value in (scale, bias))
    index_B = jnp.arange(batch, dtype=jnp.int32)
    labels = dict(index=index_B, ids=ids_BK, present=present_B)
    return Side(x_BE, scale_B, bias_B, **labels), Side(y_BE, **labels)


def check_duplicates(duplicates: Duplicates, ids_BK):
    """Raises ValueError where there is no such way, or it lacks the ids."""
    if duplicates not in get_args(Duplicates):
        raise ValueError(f"duplicates={duplicates!r} is none of {get_args(Duplicates)}")
    if duplicates != "negatives" and ids_BK is None:
        raise ValueError(f"duplicates={duplicates!r} needs ids: equal ones for what shows the same thing")


def positives(x_BE, y_BE):
    """The similarity of each pair, not read off a diagonal: its gradient would be a scatter into B x B."""
    dtype = wide(x_BE, y_BE)
    return jnp.sum(x_BE.astype(dtype) * y_BE.astype(dtype), axis=1)


def mean(losses_B, present_B):
    """The mean over the examples that are there; zero where none is."""
    if present_B is None:
        return jnp.mean(losses_B)
    return jnp.sum(jnp.where(present_B, losses_B, 0)) / jnp.maximum(jnp.sum(present_B), 1)


def wide(x_BE, y_BE):
    """The dtype of sums: float32 or better."""
    return jnp.promote_types(jnp.promote_types(x_BE.dtype, y_BE.dtype), jnp.float32)
