"""The gradient of a large batch from micro-batches: exact, although in the loss every pair counts.

Gao et al. 2021, arXiv:2101.06983 (GradCache): all micro-batches are embedded, and nothing else of them is
kept; the loss is taken once, of the whole batch, with its gradient by embedding; then every micro-batch is
embedded again, and that gradient is pulled back through it. The memory is that of one micro-batch, the time
that of one more forward pass.

Letters: B batch, M rows of a micro-batch, K micro-batches.
"""

from collections.abc import Callable, Collection

import einops
import jax
import jax.numpy as jnp

from mmjax import optim, sharding
from mmjax.contrastive import modalities, row_keys
from mmjax.contrastive.loss import Found, compare, embed, loss, named_keys


def check(cfg, mesh, params):
    """Raises ValueError where `cfg.accumulate` micro-batches cannot give the gradient of the batch.

    Args:
        cfg: a `Pretrain`, or a config like it.
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


def value_and_grad(
    cfg,
    params,
    batch,
    key,
    memory=None,
    *,
    whole: Callable = lambda params: params,
    locked: Collection[str] = (),
):
    """`jax.value_and_grad` of `loss` by `params`, in `cfg.accumulate` parts: ((value, `Found`), gradient).

    Every row draws the same random numbers in both passes, and whatever the number of parts (`row_keys`).

    Args:
        params: what is trained.
        whole: makes all parameters of these.
        locked: as of `loss`.
    """

    def all_of(params):
        return whole(optim.stop_frozen(cfg.optim, params))

    def whole_loss(params):
        return loss(cfg, all_of(params), batch, key, memory, locked=locked)

    if cfg.accumulate == 1:
        return jax.value_and_grad(whole_loss, has_aux=True)(params)

    def embed_part(params, batch, keys):
        return embed(cfg, all_of(params), batch, keys, locked=locked)[0]

    def compare_all(params, z):
        (value, metrics), new = compare(cfg, all_of(params), z, batch, memory)
        return value, (metrics, new)

    def pull_back(gradient, part):
        _, pull = jax.vjp(lambda params: embed_part(params, *_drawn(cfg, batch, key, part)), params)
        (more,) = pull(_part(z_gradient, part, cfg.accumulate))
        return jax.tree.map(jnp.add, gradient, more), None

    z = by_parts(cfg, lambda *drawn: embed_part(params, *drawn), batch, key)
    of_loss = jax.value_and_grad(compare_all, argnums=(0, 1), has_aux=True)
    (value, (metrics, new)), (gradient, z_gradient) = of_loss(params, z)
    gradient, _ = jax.lax.scan(pull_back, gradient, jnp.arange(cfg.accumulate))
    return (value, Found(metrics, z, {}, new)), gradient


def by_parts(cfg, function: Callable, batch, key):
    """`function(batch, keys)`, rows in a tree, of a batch in `cfg.accumulate` parts."""
    if cfg.accumulate == 1:
        return function(batch, named_keys(cfg, key))
    parts = jnp.arange(cfg.accumulate)
    return _together(jax.lax.map(lambda part: function(*_drawn(cfg, batch, key, part)), parts))


def _drawn(cfg, batch, key, part):
    """A micro-batch and the keys under which its rows draw as in the whole batch."""
    parts, rows = cfg.accumulate, len(batch["id"]) // cfg.accumulate
    keys = named_keys(cfg, key)
    drawn = {name: row_keys.of_part(key, part, parts=parts, rows=rows) for name, key in keys.items()}
    return _part(batch, part, parts), drawn


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
