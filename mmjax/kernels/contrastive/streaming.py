"""Statistics of the rows and columns of a matrix of logits that is never there as a whole.

One differentiable function, `statistics`: linear in memory, the same on every mesh. A loss is a formula of a
few vectors on top of it, differentiated by JAX.

Letters: B batch, E embedding.
"""

import dataclasses
import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh

from mmjax import sharding
from mmjax.kernels.contrastive import pallas_tpu, tiles, transport
from mmjax.kernels.contrastive.rules import Rule, Side, nested

Implementation = Literal["auto", "dense", "ring", "gather"]

# Pairs of a batch up to which the matrix itself is no burden (64 MiB) and "auto" is dense.
DENSE = 4096
# Rows of a device from which a hop of the ring hides behind its tiles: links of 45 GB/s beside 200 TFLOP/s.
RING = 2048


def choose(implementation: Implementation, rows: int, columns: int, mesh) -> Implementation:
    """What "auto" is for so many rows and columns on this mesh, and any other choice checked.

    dense: up to `DENSE` squared logits, and wherever the batch does not divide over the devices.
    ring: where each device has at least `RING` of the rows; also on a single device, where nothing travels.
    gather: else. A ring would take many short hops, each of which costs more to start than to finish.
    """
    if implementation not in get_args(Implementation):
        raise ValueError(f"implementation={implementation!r} is none of {get_args(Implementation)}")
    devices = sharding.batch_devices(mesh)
    if implementation == "auto":
        if rows * columns <= DENSE**2 or rows % devices or columns % devices:
            return "dense"
        return "ring" if devices == 1 or rows // devices >= RING else "gather"
    if implementation != "dense":
        sharding.check_batch(mesh, rows)
        if columns % devices:
            raise ValueError(
                f"{columns} columns do not divide over {devices} devices; use a multiple of {devices}"
            )
    return implementation


def statistics(
    rule: Rule,
    row: Side,
    column: Side,
    *,
    widths: tuple[int, ...] = (),
    mesh,
    implementation: Implementation,
):
    """Finished statistics of rows and columns of scale_i x_i . y_j + bias_i, for all i and j.

    One (rows, columns) for each prefix of the embeddings that `widths` asks for, and one for the whole, last:
    all of them in one pass. Differentiable by `row.z`, `row.scale`, `row.bias` and `column.z`, exactly.

    Args:
        row, column: of the global batch, sharded over the batch axes of the mesh or not.
        mesh: None is that of the surrounding `jax.set_mesh`; where there is none, one device.
    """
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    implementation = choose(implementation, len(row.z), len(column.z), mesh)
    if widths:
        row, column = (side._replace(norms=_norms(side.z, widths)) for side in (row, column))
    if implementation == "dense":
        nothing = _nothing(rule, row, column)
        found = [rule.add(*nothing, logits_BB, row, column) for logits_BB in nested(row, column, widths)]
        return [_finish(rule, *of_width) for of_width in found]
    device = mesh.abstract_mesh.abstract_device
    plan = _Plan(
        rule,
        widths,
        None if sharding.batch_devices(mesh) == 1 else mesh,
        implementation,
        None if device is None else device.device_kind,
    )
    return list(zip(*_streamed(plan, row, column), strict=True))


@dataclasses.dataclass(frozen=True)
class _Plan:
    rule: Rule
    widths: tuple[int, ...]
    mesh: Mesh | AbstractMesh | None  # None where nothing is split
    implementation: Implementation
    chip: str | None  # the kind of device of the mesh; None where there is no mesh to tell

    def tiles(self, row, column):
        """The module with the `forward` and `backward` that suit this."""
        return pallas_tpu if pallas_tpu.serves(self.chip, self.rule, row, column) else tiles

    def spread(self, function, *args):
        """`function` on each device's part of `args` and of its result."""
        if self.mesh is None:
            return function(*args)
        spec = sharding.batch_spec()
        # The check of replication would refuse loop carries that start from constants. Safe without: no
        # result is replicated, and nothing is differentiated inside.
        spread = jax.shard_map(function, mesh=self.mesh, in_specs=spec, out_specs=spec, check_vma=False)
        return spread(*args)

    def carry(self, visit, own, column, empty, home):
        if self.mesh is None:
            return visit(own, column, empty(column))
        axes = sharding.batch_axes()
        if self.implementation == "ring":
            return transport.ring(visit, own, column, empty, axes)
        return transport.gather(visit, own, column, empty, axes, home=functools.partial(home, axes))


# Outside `shard_map`: inside, gradients of a replicated scalar come out too small by the number of devices.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _streamed(plan: _Plan, row: Side, column: Side):
    return _forward(plan, row, column)[0]


def _forward(plan, row, column):
    rule, count = plan.rule, len(plan.widths) + 1

    def local(row, column):
        rows, _ = _nothing(rule, row, column)

        def visit(rows, column, columns):
            return plan.tiles(row, column).forward(rule, plan.widths, row, column, rows, columns)

        def empty(column):
            return [_nothing(rule, row, column)[1]] * count

        def home(axes, columns):
            parts = jax.tree.map(lambda x: x.reshape(lax.axis_size(axes), -1), columns)
            parts = jax.tree.map(lambda x: lax.all_to_all(x, axes, 0, 0), parts)
            return [None if part is None else rule.merge(part) for part in parts]

        rows, columns = plan.carry(visit, [rows] * count, column, empty, home)
        finished = [_finish(rule, *of_width) for of_width in zip(rows, columns, strict=True)]
        return tuple(zip(*finished, strict=True))

    found = plan.spread(local, row, column)
    return found, (row, column, *found)


def _backward(plan, residuals, gradients):
    row, column, rows, columns = residuals

    def local(row, column, rows, columns):
        def visit(d_row, guest, d_column):
            column, columns = guest
            part = plan.tiles(row, column)
            return part.backward(plan.rule, plan.widths, row, column, rows, columns, d_row, d_column)

        def home(axes, d_column):
            return jax.tree.map(lambda x: lax.psum_scatter(x, axes, tiled=True), d_column)

        def empty(guest):
            return tiles.no_gradient(guest[0])

        own = tiles.no_gradient(row)
        d_row, d_column = plan.carry(visit, own, (column, columns), empty, home)
        d_row = tiles.rescale(row, d_row)
        # XLA keeps no array wider than the input that it is a gradient of.
        return _like(d_row, row), _like(d_column, column)

    return plan.spread(local, row, column, (rows, gradients[0]), (columns, gradients[1]))


_streamed.defvjp(_forward, _backward)


def _nothing(rule, row, column):
    """Statistics of rows and columns before any logit."""
    dtype = jnp.promote_types(jnp.promote_types(row.z.dtype, column.z.dtype), jnp.float32)
    rows = rule.empty(jnp.zeros(len(row.z), dtype))
    return rows, rule.empty(jnp.zeros(len(column.z), dtype)) if rule.columns else None


def _finish(rule, rows, columns):
    return rule.finish(rows), rule.finish(columns) if rule.columns else None


def _norms(z_BE, widths):
    """1 / norm of each prefix."""
    if any(width >= z_BE.shape[1] for width in widths):
        raise ValueError(f"widths={widths} are no parts of embeddings of {z_BE.shape[1]}")
    squares_BE = z_BE.astype(jnp.promote_types(z_BE.dtype, jnp.float32)) ** 2
    # The root of zero has no gradient.
    return jnp.stack(
        [lax.rsqrt(jnp.maximum(jnp.sum(squares_BE[:, :width], axis=1), 1e-12)) for width in widths], axis=1
    )


def _like(gradient: Side, side: Side) -> Side:
    kept = tiles.differentiable(side)
    return jax.tree.map(lambda d, x: d.astype(x.dtype), gradient, Side(*kept[:3], norms=kept[3]))
