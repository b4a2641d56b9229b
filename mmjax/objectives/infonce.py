"""InfoNCE, the objective of CLIP (Radford et al. 2021, arXiv:2103.00020), and its relatives."""

from typing import Literal

import jax
from flax import linen as nn

from mmjax.kernels import contrastive
from mmjax.objectives import Loss
from mmjax.objectives.pairs import Views, ids_of, over_pairs, remembered
from mmjax.objectives.queue import Queue
from mmjax.objectives.scale import learned_scale


class InfoNCE(nn.Module):
    """Symmetric cross-entropy of picking the right partner among the global batch.

    The options are those of `contrastive.infonce`.
    """

    initial_scale: float = 1 / 0.07
    ceiling: float = 100.0  # of the learned scale
    implementation: contrastive.Implementation = "auto"
    views: Views = Views()
    own_scales: bool = False  # one for each pair of modalities, or one for all
    duplicates: contrastive.Duplicates = "negatives"
    duplicates_by: str = "id"  # the array of the batch that is equal for them: `id`, or a label of its fields
    queue: Queue | None = None
    decoupled: bool = False
    smoothing: float = 0.0
    direction: Literal["both", "x_to_y"] = "both"  # x is the first modality of a pair

    def setup(self):
        self.scale = learned_scale(self, self.initial_scale, self.ceiling)
        self.others = {
            pair.name: learned_scale(self, self.initial_scale, self.ceiling, f"log_scale_{pair.name}")
            for pair in self.views.pairs[1:]
            if self.own_scales
        }

    def __call__(self, z, batch) -> Loss:
        ids_B = ids_of(batch, self.duplicates, self.duplicates_by)
        past = remembered(self.queue, self.views, z, batch, ids_B)

        def loss(pair, x_BE, y_BE, **given):
            return contrastive.infonce(
                x_BE,
                y_BE,
                self.others.get(pair.name, self.scale),
                ids_BK=ids_B,
                duplicates=self.duplicates,
                decoupled=self.decoupled,
                smoothing=self.smoothing,
                direction=self.direction,
                implementation=self.implementation,
                **given,
            )

        value, metrics = over_pairs(self.views, z, batch, past, loss)
        return Loss(value, {"scale": self.scale, **metrics})

    def probs(self, image_NE, text_ME):
        """Softmax over the texts: which one of these belongs to the image."""
        scale = self.others.get("image_text", self.scale)
        return jax.nn.softmax(scale * image_NE @ text_ME.T, axis=-1)
