"""The sigmoid objective of SigLIP (Zhai et al. 2023, arXiv:2303.15343)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mmjax.kernels import contrastive
from mmjax.objectives import Loss
from mmjax.objectives.scale import learned_scale


class Sigmoid(nn.Module):
    """Every pair of the global batch is asked apart whether it belongs together.

    The bias starts low, since of B x B pairs only B belong together (section 3.2 of the paper).
    """

    initial_scale: float = 10.0
    initial_bias: float = -10.0
    ceiling: float = 1000.0  # of the learned scale; the paper has none
    implementation: contrastive.Implementation = "auto"

    def setup(self):
        self.scale = learned_scale(self, self.initial_scale, self.ceiling)
        self.bias = self.param("bias", lambda key: jnp.asarray(self.initial_bias, jnp.float32))

    def __call__(self, z, batch) -> Loss:
        value = contrastive.sigmoid(
            z["image"], z["text"], self.scale, self.bias, implementation=self.implementation
        )
        positive = jnp.mean(jnp.sum(z["image"] * z["text"], axis=1))
        return Loss(value, {"scale": self.scale, "bias": self.bias, "positive": positive})

    def probs(self, image_NE, text_ME):
        """Of each pair apart: does this text belong to this image."""
        return jax.nn.sigmoid(self.scale * image_NE @ text_ME.T + self.bias)
