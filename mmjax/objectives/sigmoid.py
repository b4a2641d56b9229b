"""The sigmoid objective of SigLIP (Zhai et al. 2023, arXiv:2303.15343)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmjax.kernels import contrastive
from mmjax.objectives import Loss
from mmjax.objectives.pairs import Views, ids_of, over_pairs, remembered
from mmjax.objectives.queue import Queue
from mmjax.objectives.scale import learned_scale


class Sigmoid(nn.Module):
    """Every pair of the global batch is asked apart whether it belongs together.

    The bias starts low, since of B x B pairs only B belong together (section 3.2 of the paper). The options
    are those of `contrastive.sigmoid`.
    """

    initial_scale: float = 10.0
    initial_bias: float = -10.0
    ceiling: float = 1000.0  # of the learned scale; the paper has none
    implementation: contrastive.Implementation = "auto"
    views: Views = Views()
    duplicates: contrastive.Duplicates = "negatives"
    duplicates_by: str = "id"  # the array of the batch that is equal for them: `id`, or a label of its fields
    queue: Queue | None = None
    smoothing: float = 0.0

    def setup(self):
        self.scale = learned_scale(self, self.initial_scale, self.ceiling)
        self.bias = self.param("bias", lambda key: jnp.asarray(self.initial_bias, jnp.float32))

    def __call__(self, z, batch) -> Loss:
        ids_B = ids_of(batch, self.duplicates, self.duplicates_by)
        past = remembered(self.queue, self.views, z, batch, ids_B)

        def loss(pair, x_BE, y_BE, **given):
            return contrastive.sigmoid(
                x_BE,
                y_BE,
                self.scale,
                self.bias,
                ids_BK=ids_B,
                duplicates=self.duplicates,
                smoothing=self.smoothing,
                implementation=self.implementation,
                **given,
            )

        value, metrics = over_pairs(self.views, z, batch, past, loss)
        return Loss(value, {"scale": self.scale, "bias": self.bias, **metrics})

    def probs(self, image_NE, text_ME):
        """Of each pair apart: does this text belong to this image."""
        return jax.nn.sigmoid(self.scale * image_NE @ text_ME.T + self.bias)
