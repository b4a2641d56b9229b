"""Embeddings of past batches as further negatives: what a contrastive objective remembers.

He et al. 2020, arXiv:1911.05722 (MoCo), section 3.1; without a second encoder as Wang et al. 2020,
arXiv:1912.06798 (cross-batch memory): the towers of a few steps ago are nearly those of now.

Letters: B batch, Q entries of the queue, T batches in it, E embedding, K kinds of ids.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmjax import sharding
from mmjax.kernels.contrastive import Further


class Queue(nn.Module):
    """The last `size` embeddings of each modality, first in, first out; no gradient reaches them.

    State in the collection `memory`, split over the mesh as the batch is: what a device keeps are embeddings
    of its own rows, and nothing is sent to remember them. Entries that were never filled do not exist.
    """

    size: int

    def __post_init__(self):
        super().__post_init__()
        if self.size < 1:
            raise ValueError(f"queue.size={self.size} must be 1 or more")

    @nn.compact
    def __call__(self, z, present, ids_BK) -> dict[str, Further]:
        """What was remembered so far, by modality; this batch is remembered for the next call.

        Args:
            z: embeddings of a batch, [B, E] by modality.
            present: bool [B] by modality, None where all are there.
            ids_BK: of the examples; None where they do not matter.

        Raises:
            ValueError: the queue does not hold whole batches.
        """
        batch = len(next(iter(z.values())))
        if self.size % batch:
            raise ValueError(
                f"queue.size={self.size} does not hold whole batches; use a multiple of the batch of {batch}"
            )
        turn = self.variable("memory", "turn", jnp.zeros, (), jnp.int32)
        ids_QK = None if ids_BK is None else self._exchange("ids", ids_BK, turn.value)
        found = {}
        for name, z_BE in z.items():
            there_B = jnp.ones(len(z_BE), bool) if present[name] is None else present[name]
            there_Q = self._exchange(f"{name}_present", there_B, turn.value)
            found[name] = Further(self._exchange(name, z_BE, turn.value), ids_QK, there_Q)
        if not self.is_initializing():
            turn.value = (turn.value + 1) % (self.size // batch)
        return found

    def _exchange(self, name: str, rows, turn):
        """The entries under `name` before `rows` take the place of the oldest ones."""
        past = self.variable("memory", name, jnp.zeros, (self.size, *rows.shape[1:]), rows.dtype)
        before = past.value
        # What parameters are made from is no batch.
        if not self.is_initializing():
            past.value = _put(before, jax.lax.stop_gradient(rows), turn)
        return before


def _put(past, rows, turn):
    """`past` with `rows` as batch `turn` of it. Entries of one row of the batch lie together, so that every
    device writes what it has."""
    past_BT = past.reshape(len(rows), -1, *past.shape[1:])
    past_BT = jax.lax.dynamic_update_index_in_dim(past_BT, rows, turn, axis=1)
    return sharding.constrain(past_BT.reshape(past.shape), "batch", *[None] * (past.ndim - 1))
