"""Learning a teacher's similarities: its softmax over the batch is the target of the student's.

Letters: B batch, E embedding, T the teacher's embedding.
"""

import jax

from mmjax.kernels.contrastive.rules import Distilled, Softmax, Teacher
from mmjax.kernels.contrastive.sides import mean, sides
from mmjax.kernels.contrastive.streaming import Implementation, statistics


def distill(
    x_BE,
    y_BE,
    scale,
    teacher_x_BT,
    teacher_y_BT,
    teacher_scale,
    *,
    present_B=None,
    mesh=None,
    implementation: Implementation = "auto",
):
    """Cross-entropy of the teacher's and the student's softmax over the batch, both ways, in nats.

    Hinton et al. 2015, arXiv:1503.02531, of similarities: the teacher's may have another width. It learns
    nothing. Never below the entropy of the teacher's softmax.

    Args:
        x_BE, y_BE, scale, present_B, mesh, implementation: as of `infonce`; the scale is a scalar.
        teacher_x_BT, teacher_y_BT, teacher_scale: the same of the teacher.

    Returns:
        Scalar float32.

    Raises:
        ValueError: the batches differ in length, or a pair of them in shape.
    """
    if len(teacher_x_BT) != len(x_BE):
        raise ValueError(f"the teacher has {len(teacher_x_BT)} pairs, the student {len(x_BE)}")
    where = dict(mesh=mesh, implementation=implementation)
    taught = jax.lax.stop_gradient((teacher_x_BT, teacher_y_BT, teacher_scale))
    t_row, t_column = sides(*taught, 0.0, None, present_B)
    [(t_rows, t_columns)] = jax.lax.stop_gradient(statistics(Softmax(), t_row, t_column, **where))
    row, column = sides(x_BE, y_BE, scale, 0.0, None, present_B)
    [(rows, columns)] = statistics(Softmax(), row, column, **where)
    row = row._replace(teacher=Teacher(t_row.z, t_row.scale, t_rows.peak, t_rows.log_sum))
    column = column._replace(teacher=Teacher(t_column.z, t_row.scale, t_columns.peak, t_columns.log_sum))
    [(by_row_B, by_column_B)] = statistics(Distilled(), row, column, **where)
    losses_B = (rows.peak - by_row_B) + rows.log_sum + (columns.peak - by_column_B) + columns.log_sum
    return mean(losses_B / 2, present_B)
