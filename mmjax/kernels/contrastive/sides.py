"""What every contrastive loss starts and ends with: the sides of its matrix, and a mean over what is there.

Letters: B batch, E embedding, K kinds of ids or hard negatives of an example, M further embeddings.
"""

from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array

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


class Further(NamedTuple):
    """Embeddings of one modality that belong to no pair of the batch, such as those of a queue."""

    z: Array  # [M, E]
    ids: Array | None = None  # int32, [M] or [M, K] as the batch's are: equal ones make duplicates
    present: Array | None = None  # bool [M]; the others do not exist


def against(row: Side, more: Further) -> tuple[Side, Side]:
    """Rows, and the columns that they are held against beside those of the batch."""
    count = len(more.z)
    ids_MK = None if row.ids is None or more.ids is None else more.ids.reshape(count, -1)
    # Rows that are not there are left out at the end.
    present_B = None if more.present is None else jnp.ones(len(row.z), bool)
    index_M = jnp.full(count, -1, jnp.int32)  # nobody's partner
    column = Side(more.z, index=index_M, ids=ids_MK, present=more.present)
    return row._replace(ids=None if ids_MK is None else row.ids, present=present_B), column


def prefix(z, width: int | None):
    """The first `width` numbers of each embedding as one of its own, of norm 1; None is the whole."""
    if width is None:
        return z
    z = z[..., :width]
    # The root of zero has no gradient.
    return z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z**2, axis=-1, keepdims=True), 1e-12))


def hard_logits(row: Side, y_BKE) -> Array:
    """[B, K]: of each row with its own negatives."""
    if y_BKE.ndim != 3 or (len(y_BKE), y_BKE.shape[-1]) != row.z.shape:
        raise ValueError(f"hard negatives of {row.z.shape} embeddings are [B, K, E], got {y_BKE.shape}")
    x_BE, y_BKE = (z.astype(wide(row.z, y_BKE)) for z in (row.z, y_BKE))
    similarities_BK = jnp.einsum("be,bke->bk", x_BE, y_BKE, precision="highest")
    return row.scale[:, None] * similarities_BK + row.bias[:, None]


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
