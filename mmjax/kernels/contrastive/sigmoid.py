"""The sigmoid loss as a mean of the sums over rows.

Letters: B batch, E embedding, K kinds of ids or hard negatives of an example.
"""

import jax
import jax.numpy as jnp

from mmjax.kernels.contrastive.rules import Duplicates, Sigmoid
from mmjax.kernels.contrastive.sides import (
    Further,
    against,
    check_duplicates,
    hard_logits,
    mean,
    prefix,
    sides,
)
from mmjax.kernels.contrastive.streaming import Implementation, statistics


def sigmoid(
    x_BE,
    y_BE,
    scale,
    bias,
    *,
    ids_BK=None,
    duplicates: Duplicates = "negatives",
    present_B=None,
    smoothing: float = 0.0,
    more_x: Further | None = None,
    more_y: Further | None = None,
    hard_y_BKE=None,
    hard_present_BK=None,
    widths: tuple[int, ...] = (),
    mesh=None,
    implementation: Implementation = "auto",
):
    """The pairwise sigmoid loss: each of the B x B pairs is a yes-or-no question, in nats an example.

    Zhai et al. 2023, arXiv:2303.15343, eq. 1: -(1/B) sum_ij log sigmoid(z_ij (scale x_i . y_j + bias)),
    with z_ij = 1 on the diagonal and -1 elsewhere.

    Args:
        x_BE, y_BE, ids_BK, present_B, widths, mesh, implementation: as of `infonce`.
        more_x, more_y, hard_y_BKE, hard_present_BK: as of `infonce`; further questions about each pair's y
            and x, answered as `duplicates` says.
        scale, bias: scalars, or [B], one for each row.
        duplicates: other pairs that show the same thing are asked for a no, "masked" and not asked at all,
            or "positives" and asked for a yes.
        smoothing: share of the answers wanted that is an even chance.

    Returns:
        Scalar float32.

    Raises:
        ValueError: as `infonce`.
    """
    check_duplicates(duplicates, ids_BK)
    row, column = sides(x_BE, y_BE, scale, bias, ids_BK, present_B)
    rule = Sigmoid(duplicates=duplicates, smoothing=smoothing)
    where = dict(widths=widths, mesh=mesh, implementation=implementation)
    losses = [found_B for found_B, _ in statistics(rule, row, column, **where)]
    for side, more in ((row, more_y), (column._replace(scale=row.scale, bias=row.bias), more_x)):
        if more is not None:
            losses += [found_B for found_B, _ in statistics(rule, *against(side, more), **where)]
    if hard_y_BKE is not None:
        for width in (*widths, None):
            x = row._replace(z=prefix(row.z, width))
            logits_BK = hard_logits(x, prefix(hard_y_BKE, width))
            losses.append(_denied(logits_BK, hard_present_BK, smoothing))
    return mean(sum(losses) / (len(widths) + 1), present_B)


def _denied(logits_BK, present_BK, smoothing):
    """Each row's losses of answers that should be no, softened as all are; see `rules.Sigmoid`."""
    losses_BK = jax.nn.softplus(logits_BK) - smoothing / 2 * logits_BK
    return jnp.sum(losses_BK if present_BK is None else jnp.where(present_BK, losses_BK, 0), axis=1)
