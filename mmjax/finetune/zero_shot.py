"""What heads take from a checkpoint's text tower: a kernel that begins as zero-shot classification, or the
tower itself where prompts are learned. Letters: C classes, E embedding."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mmjax import sharding
from mmjax.data.captions import check_templates
from mmjax.evals.zero_shot import embed_classes
from mmjax.finetune.base import Base
from mmjax.finetune.context import SCALE, Prompts, rows_with_room
from mmjax.finetune.heads import Prompted
from mmjax.model import encoders, in_batches
from mmjax.towers.extended import extended
from mmjax.towers.prompts import Context

_ROWS = 256  # texts of one forward pass


def check(head: Prompted | Prompts, base: Base):
    """Raises ValueError where the checkpoint has no whole text tower, or no scale for a head without one."""
    base.tower("text")
    base.check_whole("text")
    if (isinstance(head, Prompts) or head.scale is None) and SCALE not in base.shapes().get("objective", {}):
        raise ValueError(
            f"{base.workdir} has no objective with a scale; give heads.Prompted a scale, such as 100, or use "
            "another head"
        )


def kernel(base: Base, head: Prompted, names: tuple[str, ...], mesh: Mesh):
    """Float32 [E, C]: embeddings of the classes' prompts by the text tower, times the scale.

    Only the text tower is read of the checkpoint, and the objective's scale where the head gives none.
    """
    tower, there = base.tower("text"), base.shapes()
    wanted = {"text": there["text"]}
    if head.scale is None:
        wanted["objective"] = {SCALE: there["objective"][SCALE]}
    params = base.restore(sharding.with_layout(wanted, sharding.shardings(mesh, wanted)))
    scale = jnp.exp(params["objective"][SCALE]) if head.scale is None else head.scale
    encode = functools.partial(encoders({"text": tower}, None, mesh)["text"], params["text"])
    tokenizer = base.tokenizer()
    z_CE = embed_classes(
        {"text": lambda texts: in_batches(encode, texts, tokenizer, mesh=mesh, batch_size=_ROWS)},
        names,
        head.templates,
    )
    return jax.device_put(scale * z_CE.T, sharding.replicated(mesh))


def with_text(head: Prompts, base: Base, names: tuple[str, ...]) -> Prompts:
    """The head with what it takes from the checkpoint.

    Raises:
        ValueError: its rows of ids have no room for the context.
    """
    check_templates((head.template,))
    config = base.config.tokenizer
    context = Context(length=head.length, first=0 if config is None or config.bos_id is None else 1)
    text = extended(base.tower("text"), (context,))
    prompts = [head.template.replace("{}", name) for name in names]
    rows = rows_with_room(base.tokenizer(), context, prompts)
    return head.clone(text=text, rows=tuple(tuple(row) for row in rows.tolist()))


def fixed_of(base: Base, wanted):
    """What a head that learns prompts has from the checkpoint, laid out as `wanted`, its fixed part, says."""
    read = base.restore({"text": wanted["text"], "objective": {SCALE: wanted[SCALE]}})
    return {"text": read["text"], SCALE: read["objective"][SCALE]}
