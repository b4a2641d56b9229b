"""InfoNCE, the objective of CLIP (Radford et al. 2021, arXiv:2103.00020)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmjax.kernels import contrastive
from mmjax.objectives import Loss
from mmjax.objectives.scale import learned_scale


class InfoNCE(nn.Module):
    """Symmetric cross-entropy of picking the right partner among the global batch."""

    initial_scale: float = 1 / 0.07
    ceiling: float = 100.0  # of the learned scale
    implementation: contrastive.Implementation = "auto"

    def setup(self):
        self.scale = learned_scale(self, self.initial_scale, self.ceiling)

    def __call__(self, z, batch) -> Loss:
        value = contrastive.infonce(z["image"], z["text"], self.scale, implementation=self.implementation)
        positive = jnp.mean(jnp.sum(z["image"] * z["text"], axis=1))
        return Loss(value, {"scale": self.scale, "positive": positive})

    def probs(self, image_NE, text_ME):
        """Softmax over the texts: which one of these belongs to the image."""
        return jax.nn.softmax(self.scale * image_NE @ text_ME.T, axis=-1)
