"""InfoNCE and its relatives as formulas of the log-sum-exps of rows and columns.

Letters: B batch, E embedding, K kinds of ids or hard negatives of an example.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from mmjax.kernels.contrastive.rules import NEVER, Duplicates, Side, Softmax, SoftmaxStatistics
from mmjax.kernels.contrastive.sides import (
    Further,
    against,
    check_duplicates,
    hard_logits,
    mean,
    positives,
    prefix,
    sides,
)
from mmjax.kernels.contrastive.streaming import Implementation, statistics


def infonce(
    x_BE,
    y_BE,
    scale,
    *,
    ids_BK=None,
    duplicates: Duplicates = "negatives",
    present_B=None,
    decoupled: bool = False,
    smoothing: float = 0.0,
    direction: Literal["both", "x_to_y"] = "both",
    more_x: Further | None = None,
    more_y: Further | None = None,
    hard_y_BKE=None,
    hard_present_BK=None,
    widths: tuple[int, ...] = (),
    mesh=None,
    implementation: Implementation = "auto",
):
    """Symmetric InfoNCE over the global batch, in nats.

    Radford et al. 2021, arXiv:2103.00020, figure 3; van den Oord et al. 2018, arXiv:1807.03748, eq. 4.
    Pair i of the batch is the one positive of row i and of column i.

    Args:
        x_BE, y_BE: unit-norm embeddings of two modalities, their batch axis sharded or not. Of bfloat16 they
            are multiplied as such, and summed in float32.
        scale: 1 / temperature, a scalar, or [B]: pair i is told from others at its own temperature.
        ids_BK: [B] or [B, K] int32; pairs with any id in common show the same thing.
        duplicates: "masked" leaves such others out; "positives" shares the target among them and itself
            (UniCL, Yang et al. 2022, arXiv:2204.03610, eq. 2 and 3).
        present_B: bool; the loss is that of the batch of these pairs alone.
        decoupled: positives are no part of what they are compared with (DCL, Yeh et al. 2022,
            arXiv:2110.06848, eq. 6).
        smoothing: share of the target that is spread evenly over the batch, but for what is masked.
        direction: "x_to_y" has only the rows: each x looks for its y.
        more_x, more_y: further negatives for all columns, for all rows: a queue of past embeddings (He et al.
            2020, arXiv:1911.05722), or hard negatives shared by the batch. Duplicates by id are masked, or
            further positives, as in the batch.
        hard_y_BKE: further negatives, row i's own; `hard_present_BK`, bool, says which are there.
        widths: ascending; prefixes of the embeddings that are to be embeddings, too (Matryoshka, Kusupati et
            al. 2022, arXiv:2205.13147). The loss is the mean of theirs, made unit-norm, and the whole's.
        mesh: that the batch is sharded over; None is the mesh of the surrounding `jax.set_mesh`.
        implementation: "dense" holds all logits; "ring" and "gather" a tile of them. All are exact.

    Returns:
        Scalar float32; log(B) for embeddings that carry no information.

    Raises:
        ValueError: the two batches differ in shape, ids are needed and not there, or something does not
            divide over the devices of "ring" or "gather".
    """
    check_duplicates(duplicates, ids_BK)
    if direction not in ("both", "x_to_y"):
        raise ValueError(f"direction={direction!r} is none of ('both', 'x_to_y')")
    both = direction == "both"
    if both and jnp.ndim(scale):
        # Of row i the logits are scaled by scale i, of column i, too: these are two matrices.
        options = dict(ids_BK=ids_BK, duplicates=duplicates, present_B=present_B, decoupled=decoupled)
        options |= dict(smoothing=smoothing, direction="x_to_y", widths=widths, mesh=mesh)
        options |= dict(implementation=implementation)
        hard = dict(hard_y_BKE=hard_y_BKE, hard_present_BK=hard_present_BK)
        there = infonce(x_BE, y_BE, scale, more_y=more_y, **hard, **options)
        return (there + infonce(y_BE, x_BE, scale, more_y=more_x, **options)) / 2
    target = _Target(duplicates, smoothing)
    ids_BK = None if duplicates == "negatives" else ids_BK
    row, column = sides(x_BE, y_BE, scale, 0.0, ids_BK, present_B)
    rule = Softmax(columns=both, excluded=_excluded(duplicates, decoupled), alike=target.of_alike)
    where = dict(widths=widths, mesh=mesh, implementation=implementation)
    found = statistics(rule, row, column, **where)
    swapped = column._replace(scale=row.scale, bias=row.bias)
    further = _further(rule, target, row, more_y, where), _further(rule, target, swapped, more_x, where)
    losses = []
    for width, (rows, columns), of_rows, of_columns in zip((*widths, None), found, *further, strict=True):
        x, y = (side._replace(z=prefix(side.z, width)) for side in (row, swapped))
        right_B = row.scale * positives(x.z, y.z)
        if hard_y_BKE is not None:
            of_rows = [*of_rows, _hard(x, prefix(hard_y_BKE, width), hard_present_BK)]
        losses.append(target.cross_entropy(rows, right_B, x, y, of_rows))
        if both:
            losses[-1] = (losses[-1] + target.cross_entropy(columns, right_B, y, x, of_columns)) / 2
    return mean(sum(losses) / len(losses), present_B)


def _excluded(duplicates, decoupled):
    if duplicates == "masked":
        return "alike" if decoupled else "others"
    return "alike" if decoupled else "nothing"


@dataclasses.dataclass(frozen=True)
class _Target:
    """What a row should be: itself, or its duplicates too, or a little of everything."""

    duplicates: Duplicates
    smoothing: float

    @property
    def of_alike(self) -> bool:
        """Whether sums over duplicates are needed."""
        return self.duplicates == "positives" or (self.duplicates == "masked" and self.smoothing > 0)

    def cross_entropy(self, found: SoftmaxStatistics, right_B, row: Side, column: Side, further):
        """Of each row, with `further` statistics of negatives outside of the batch."""
        target_B = right_B
        if self.duplicates == "positives":
            # An absent row has none, not even itself.
            shared = [found, *(more for more in further if more.alike is not None)]
            target_B = sum(s.alike for s in shared) / jnp.maximum(sum(s.count for s in shared), 1)
        if self.smoothing:
            target_B = (1 - self.smoothing) * target_B + self.smoothing * self._spread(
                found, right_B, row, column
            )
        losses_B = (found.peak - target_B) + found.log_sum
        for more in further:
            losses_B = jnp.logaddexp(losses_B, (more.peak - target_B) + more.log_sum)
        # Where everything is a duplicate of a row, it has nothing to be told from.
        return jnp.where(losses_B > NEVER / 2, losses_B, 0)

    def _spread(self, found, right_B, row, column):
        """Mean logit of each row over the batch. Logits are linear in y: their sum needs no tile."""
        y_BE = column.z.astype(right_B.dtype)
        if column.present is not None:
            y_BE = jnp.where(column.present[:, None], y_BE, 0)
        count = len(y_BE) if column.present is None else jnp.sum(column.present)
        total_B = row.scale * (row.z.astype(right_B.dtype) @ jnp.sum(y_BE, axis=0))
        if self.duplicates == "masked":
            total_B, count = total_B - (found.alike - right_B), count - (found.count - 1)
        return total_B / jnp.maximum(count, 1)


def _further(rule: Softmax, target: _Target, row: Side, more: Further | None, where) -> list:
    """For each width a list of the rows' statistics over what belongs to no pair of the batch: one, or none
    where there is no such thing. All duplicates of a row are others there."""
    if more is None:
        return [[]] * (len(where["widths"]) + 1)
    alike = target.duplicates == "positives" and more.ids is not None
    excluded = "nothing" if rule.excluded == "nothing" or more.ids is None else "alike"
    rule = dataclasses.replace(rule, columns=False, excluded=excluded, alike=alike)
    return [[rows] for rows, _ in statistics(rule, *against(row, more), **where)]


def _hard(row: Side, y_BKE, present_BK) -> SoftmaxStatistics:
    """Statistics of each row over its own negatives."""
    logits_BK = hard_logits(row, y_BKE)
    if present_BK is not None:
        logits_BK = jnp.where(present_BK, logits_BK, NEVER)
    peak_B = jax.lax.stop_gradient(jnp.max(logits_BK, axis=1))
    return SoftmaxStatistics(peak_B, jnp.log(jnp.sum(jnp.exp(logits_BK - peak_B[:, None]), axis=1)))
