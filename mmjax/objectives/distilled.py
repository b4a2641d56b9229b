"""InfoNCE beside a teacher: the batch says which partners are right, the teacher how alike the others are.

Letters: B batch, E embedding.
"""

from flax import linen as nn

from mmjax.kernels import contrastive
from mmjax.objectives import Loss
from mmjax.objectives.infonce import InfoNCE


class DistilledInfoNCE(nn.Module):
    """(1 - share) InfoNCE + share the cross-entropy with a teacher's softmax (`contrastive.distill`).

    The batch holds the teacher's unit-norm embeddings as `teacher/image` and `teacher/text`, of any width.
    """

    infonce: InfoNCE = InfoNCE()  # learns the scale, with its own options
    share: float = 0.5
    teacher_scale: float = 100.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise ValueError(f"share={self.share} must lie in 0..1")

    def __call__(self, z, batch) -> Loss:
        plain, metrics = self.infonce(z, batch)
        if self.is_initializing():  # from shapes alone, without a batch
            return Loss(plain, metrics)
        missing = {"teacher/image", "teacher/text"} - set(batch)
        if missing:
            raise ValueError(f"the batch lacks {sorted(missing)}, the teacher's embeddings")
        taught = contrastive.distill(
            z["image"],
            z["text"],
            metrics["scale"],
            batch["teacher/image"],
            batch["teacher/text"],
            self.teacher_scale,
            implementation=self.infonce.implementation,
        )
        metrics = {**metrics, "infonce": plain, "distilled": taught}
        return Loss((1 - self.share) * plain + self.share * taught, metrics)

    def probs(self, image_NE, text_ME):
        return self.infonce.probs(image_NE, text_ME)
