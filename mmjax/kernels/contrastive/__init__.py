"""The contrastive core: losses of a global batch of pairs as functions of embeddings and scale.

Objectives call these and own the learned scale and bias. The batch axis may be sharded over the mesh.
"""

from mmjax.kernels.contrastive.dense import infonce, sigmoid

__all__ = ["infonce", "sigmoid"]
