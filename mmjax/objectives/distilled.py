"""InfoNCE beside a teacher: the batch says which partners are right, the teacher how alike the others are.

Letters: B batch, E embedding, T the teacher's embedding.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmjax.kernels import contrastive
from mmjax.objectives import Loss
from mmjax.objectives.infonce import InfoNCE
from mmjax.objectives.pairs import present


class DistilledInfoNCE(nn.Module):
    """(1 - share) InfoNCE + share x logits + embedding x embeddings + affinity x affinities.

    What is learned from the teacher: its *logits*, by cross-entropy with its softmax over the batch both ways
    (`contrastive.distill`), which is what TinyCLIP calls affinity mimicking (Wu et al. 2023,
    arXiv:2309.12314); its *embeddings*, through a learned linear map where they have another width (Yang et
    al. 2023, arXiv:2307.12732); its *affinities*, the similarities of any two examples of the batch,
    across both modalities and within each (Tung and Mori 2019, arXiv:1907.09682).

    Of the first pair of `infonce.views`, say image and text, the batch holds the teacher's unit-norm
    embeddings as `teacher/image` and `teacher/text`, of any width.
    """

    infonce: InfoNCE = InfoNCE()  # learns the scale, with its own options
    share: float = 0.5
    teacher_scale: float | None = 100.0  # of its logits; None: what the teacher's own objective learned
    embedding: float = 0.0
    # 1 - the cosine, or the squared distance, between the student's embedding and the teacher's.
    embedding_by: Literal["cosine", "distance"] = "cosine"
    affinity: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise ValueError(f"share={self.share} must lie in 0..1")
        if self.embedding < 0 or self.affinity < 0:
            raise ValueError(f"embedding={self.embedding} and affinity={self.affinity} must be 0 or more")

    @nn.compact
    def __call__(self, z, batch) -> Loss:
        views = self.infonce.views
        names = views.pairs[0].first, views.pairs[0].second
        teachers = [f"teacher/{name}" for name in names]
        self._check(set(teachers) - set(batch))
        plain, metrics = self.infonce(z, batch)
        own = [jax.lax.stop_gradient(z[name]) if name in views.stopped else z[name] for name in names]
        given = [jax.lax.stop_gradient(batch[name]) for name in teachers]
        there_B = present(batch, *names, *teachers)
        found = {
            "distilled": contrastive.distill(
                *own,
                metrics["scale"],
                *given,
                self.teacher_scale,
                present_B=there_B,
                implementation=self.infonce.implementation,
            )
        }
        value = (1 - self.share) * plain + self.share * found["distilled"]
        if self.embedding:
            far = [self._far(*three, there_B) for three in zip(names, own, given, strict=True)]
            found["embedding"] = sum(far) / len(far)
            value += self.embedding * found["embedding"]
        if self.affinity:
            found["affinity"] = affinities(own, given, there_B)
            value += self.affinity * found["affinity"]
        return Loss(value, {**metrics, "infonce": plain, **found})

    def probs(self, image_NE, text_ME):
        return self.infonce.probs(image_NE, text_ME)

    def _far(self, name: str, z_BE, teacher_BT, present_B):
        """How far a modality's embeddings are from the teacher's, a mean over the batch."""
        width = teacher_BT.shape[1]
        if z_BE.shape[1] != width:
            z_BE = nn.Dense(width, use_bias=False, name=f"project_{name}")(z_BE)
        if self.embedding_by == "distance":
            return _mean(jnp.sum((z_BE - teacher_BT) ** 2, axis=1), present_B)
        norm_B = jnp.sqrt(jnp.maximum(jnp.sum(z_BE**2, axis=1), 1e-24))
        return _mean(1 - jnp.sum(z_BE * teacher_BT, axis=1) / norm_B, present_B)

    def _check(self, missing: set[str]):
        if missing:
            raise ValueError(
                f"the batch lacks {sorted(missing)}, the teacher's embeddings: add data.fields, or give a "
                "finetune its teacher"
            )
        if self.teacher_scale is None:
            raise ValueError("teacher_scale=None needs the teacher of a finetune; give a number, such as 100")


def affinities(own, teachers, present_B=None):
    """Mean squared difference of the similarities of all pairs of examples, the student's and the teacher's.

    With X and Y of the student, P and Q of the teacher, |X Y' - P Q'|^2 is
    <X'X, Y'Y> - 2 <X'P, Y'Q> + <P'P, Q'Q>, products of one width by another: nothing of B x B is ever there.

    Args:
        own: x_BE, y_BE.
        teachers: the same two of the teacher, of any width.
        present_B: bool, the examples that count; None for all.

    Returns:
        Scalar float32, the mean over both modalities against each other and each against itself.
    """
    if present_B is not None:
        own, teachers = ([jnp.where(present_B[:, None], x, 0) for x in pair] for pair in (own, teachers))
    products = (
        [_product(x, y) for x, y in zip(*sides, strict=True)]
        for sides in ((own, own), (own, teachers), (teachers, teachers))
    )
    count = len(own[0]) if present_B is None else jnp.maximum(jnp.sum(present_B), 1)
    pairs = ((0, 1), (0, 0), (1, 1))
    inner = [[jnp.sum(of_side[i] * of_side[j]) for i, j in pairs] for of_side in products]
    squares = [student - 2 * cross + teacher for student, cross, teacher in zip(*inner, strict=True)]
    return sum(squares) / len(pairs) / count**2


def _product(x_BE, y_BT):
    return jnp.dot(x_BE.T, y_BT, precision="highest", preferred_element_type=jnp.float32)


def _mean(x_B, present_B):
    if present_B is None:
        return jnp.mean(x_B)
    return jnp.sum(jnp.where(present_B, x_B, 0)) / jnp.maximum(jnp.sum(present_B), 1)
