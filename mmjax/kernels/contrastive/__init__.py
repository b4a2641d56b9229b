"""The contrastive core: losses of a global batch of pairs as functions of embeddings and scale.

Objectives call these and own the learned scale and bias. The batch axis may be sharded over the mesh, and the
B x B logits are never there as a whole unless B is small: `streaming.choose` states the rule. A loss is a
formula (`infonce.py`, `sigmoid.py`) of vectors that `streaming.statistics` finds and differentiates; which
ones these are, a rule says (`rules.py`); `tiles.py` is one device's part, `transport.py` what lies between.
"""

from mmjax.kernels.contrastive.distill import distill
from mmjax.kernels.contrastive.infonce import infonce
from mmjax.kernels.contrastive.rules import Duplicates
from mmjax.kernels.contrastive.sides import Further
from mmjax.kernels.contrastive.sigmoid import sigmoid
from mmjax.kernels.contrastive.streaming import Implementation

__all__ = ["Duplicates", "Further", "Implementation", "distill", "infonce", "sigmoid"]
