"""The kernel of a head that begins as zero-shot classification. Letters: C classes, E embedding."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax import sharding
from mmjax.evals.zero_shot import embed_classes
from mmjax.finetune.base import Base
from mmjax.finetune.heads import Prompted
from mmjax.model import encoders, in_batches

_ROWS = 256  # texts of one forward pass


def kernel(base: Base, head: Prompted, names: tuple[str, ...], mesh: Mesh):
    """Float32 [E, C]: embeddings of the classes' prompts by the text tower, times the scale.

    Only the text tower is read of the checkpoint, and the objective's scale where the head gives none.

    Raises:
        ValueError: the checkpoint has no text tower, or its objective no scale.
    """
    tower, there = base.tower("text"), base.shapes()
    wanted = {"text": there["text"]}
    if head.scale is None:
        if "log_scale" not in there.get("objective", {}):
            raise ValueError(f"the objective of {base.workdir} has no scale; give head.scale, such as 100")
        wanted["objective"] = {"log_scale": there["objective"]["log_scale"]}
    params = base.restore(sharding.with_layout(wanted, sharding.shardings(mesh, wanted)))
    scale = jnp.exp(params["objective"]["log_scale"]) if head.scale is None else head.scale
    encode = functools.partial(encoders({"text": tower}, None, mesh)["text"], params["text"])
    tokenizer = base.tokenizer()
    z_CE = embed_classes(
        {"text": lambda texts: in_batches(encode, texts, tokenizer, mesh=mesh, batch_size=_ROWS)},
        names,
        head.templates,
    )
    return jax.device_put(scale * z_CE.T, sharding.replicated(mesh))
