"""The gradient of a large batch from micro-batches: exact, although in the loss every pair counts.

Gao et al. 2021, arXiv:2101.06983 (GradCache): all micro-batches are embedded, and nothing else of them is
kept; the loss is taken once, of the whole batch, with its gradient by embedding; then every micro-batch is
embedded again, and that gradient is pulled back through it. The memory is that of one micro-batch, the time
that of one more forward pass.

Letters: B batch, M rows of a micro-batch, K micro-batches.
"""

import einops
import jax
import jax.numpy as jnp

from mmjax import optim, sharding
from mmjax.pretrain import modalities, row_keys
from mmjax.pretrain.loss import Found, compare, embed, loss, named_keys


def check(cfg, mesh, params):
    """Raises ValueError where `cfg.accumulate` micro-batches cannot give the gradient of the batch.

    Args:
        cfg: a `Pretrain`.
        params: by modality, or their shapes.
    """
    if cfg.accumulate == 1:
        return
    devices, rows = sharding.batch_devices(mesh), cfg.data.batch_size // cfg.accumulate
    if rows % devices:
        raise ValueError(
            f"accumulate={cfg.accumulate} makes micro-batches of {rows}, which do not divide over {devices} "
            f"devices; use a data.batch_size that is a multiple of {cfg.accumulate * devices}"
        )
    key = row_keys.of_part(jax.random.key(0), 0, parts=cfg.accumulate, rows=rows)
    for modality in modalities.normalised_by_batch(cfg, params, rows, key):
        raise ValueError(
            f"accumulate={cfg.accumulate}, but the {modality} tower normalises by statistics of the "
            "batch, which no micro-batch has; use accumulate=1, or a tower without batch norm"
        )


def value_and_grad(cfg, params, batch, key, memory=None):
    """`jax.value_and_grad` of `loss` by `params`, in `cfg.accumulate` parts: ((value, `Found`), gradient).

    Every row draws the same random numbers in both passes, and whatever the number of parts (`row_keys`).
    """
    if cfg.accumulate == 1:
        return jax.value_and_grad(lambda params: loss(cfg, params, batch, key, memory), has_aux=True)(params)
    parts, keys = jnp.arange(cfg.accumulate), named_keys(cfg, key)

    def embed_part(params, part):
        rows = len(batch["id"]) // len(parts)
        drawn = {name: row_keys.of_part(key, part, parts=len(parts), rows=rows) for name, key in keys.items()}
        z, _ = embed(cfg, optim.stop_frozen(cfg.optim, params), _part(batch, part, len(parts)), drawn)
        return z

    def compare_all(params, z):
        (value, metrics), new = compare(cfg, optim.stop_frozen(cfg.optim, params), z, batch, memory)
        return value, (metrics, new)

    def pull_back(gradient, part):
        _, pull = jax.vjp(lambda params: embed_part(params, part), params)
        (more,) = pull(_part(z_gradient, part, len(parts)))
        return jax.tree.map(jnp.add, gradient, more), None

    z = _together(jax.lax.map(lambda part: embed_part(params, part), parts))
    of_loss = jax.value_and_grad(compare_all, argnums=(0, 1), has_aux=True)
    (value, (metrics, new)), (gradient, z_gradient) = of_loss(params, z)
    gradient, _ = jax.lax.scan(pull_back, gradient, parts)
    return (value, Found(metrics, z, {}, new)), gradient


def _part(tree, part, parts):
    """Rows part, part + parts ... of every array: those of a device stay on it."""

    def rows(x):
        x_MK = x.reshape(-1, parts, *x.shape[1:])
        x_M = jax.lax.dynamic_index_in_dim(x_MK, part, axis=1, keepdims=False)
        return sharding.constrain(x_M, "batch", *[None] * (x_M.ndim - 1))

    return jax.tree.map(rows, tree)


def _together(z):
    """What `_part` took apart: [K, M, ...] of all parts as [B, ...]."""

    def rows(z_KM):
        rest = [None] * (z_KM.ndim - 2)
        z_KM = sharding.constrain(z_KM, None, "batch", *rest)
        return sharding.constrain(einops.rearrange(z_KM, "k m ... -> (m k) ..."), "batch", *rest)

    return jax.tree.map(rows, z)
