"""The sigmoid loss as a mean of the sums over rows.

Letters: B batch, E embedding, K kinds of ids.
"""

from mmjax.kernels.contrastive.rules import Duplicates, Sigmoid
from mmjax.kernels.contrastive.sides import check_duplicates, mean, sides
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
    mesh=None,
    implementation: Implementation = "auto",
):
    """The pairwise sigmoid loss: each of the B x B pairs is a yes-or-no question, in nats an example.

    Zhai et al. 2023, arXiv:2303.15343, eq. 1: -(1/B) sum_ij log sigmoid(z_ij (scale x_i . y_j + bias)),
    with z_ij = 1 on the diagonal and -1 elsewhere.

    Args:
        x_BE, y_BE, ids_BK, present_B, mesh, implementation: as of `infonce`.
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
    losses_B, _ = statistics(rule, row, column, mesh=mesh, implementation=implementation)
    return mean(losses_B, present_B)
