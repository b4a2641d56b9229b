"""InfoNCE beside a teacher: the batch says which partners are right, the teacher how alike the others are.

Letters: B batch, E embedding.
"""

import jax
from flax import linen as nn

from mmjax.kernels import contrastive
from mmjax.objectives import Loss
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.pairs import present


class DistilledInfoNCE(nn.Module):
    """(1 - share) InfoNCE + share the cross-entropy with a teacher's softmax (`contrastive.distill`).

    Of the first pair of `infonce.views`, say image and text, the batch holds the teacher's unit-norm
    embeddings as `teacher/image` and `teacher/text`, of any width.
    """

    infonce: InfoNCE = InfoNCE()  # learns the scale, with its own options
    share: float = 0.5
    teacher_scale: float = 100.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise ValueError(f"share={self.share} must lie in 0..1")

    def __call__(self, z, batch) -> Loss:
        pair, stopped = self.infonce.views.pairs[0], self.infonce.views.stopped
        names = pair.first, pair.second
        teachers = [f"teacher/{name}" for name in names]
        missing = set(teachers) - set(batch)
        if missing:
            raise ValueError(f"the batch lacks {sorted(missing)}, the teacher's embeddings: add data.fields")
        plain, metrics = self.infonce(z, batch)
        taught = contrastive.distill(
            *(jax.lax.stop_gradient(z[name]) if name in stopped else z[name] for name in names),
            metrics["scale"],
            *(batch[name] for name in teachers),
            self.teacher_scale,
            present_B=present(batch, *names, *teachers),
            implementation=self.infonce.implementation,
        )
        metrics = {**metrics, "infonce": plain, "distilled": taught}
        return Loss((1 - self.share) * plain + self.share * taught, metrics)

    def probs(self, image_NE, text_ME):
        return self.infonce.probs(image_NE, text_ME)
