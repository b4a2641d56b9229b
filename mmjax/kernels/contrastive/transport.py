"""How the columns of every device come to the rows of each: around a ring, or gathered a part at a time.

Both call `visit(own, column, guest) -> (own, guest)` for every part that the columns of all devices are split
into. `own` stays on the device: statistics or gradients of its rows. `guest` belongs to the columns, starts
as `empty(column)` and ends on the device that they came from. To be called inside `jax.shard_map`.
"""

import jax
from jax import lax

from mmjax.kernels.contrastive.tiles import cut, fold, put

# Columns that `gather` holds at a time, of all devices together; one of each where there are more devices.
GATHERED = 4096


def ring(visit, own, column, empty, axes):
    """Halves of each device's columns travel in opposite directions, neighbour by neighbour.

    Both directions of every link are used, and one half travels while the other is visited: no transfer
    waits for the tiles beside it. After as many turns as there are devices, everything is home.
    """
    devices = lax.axis_size(axes)
    size = _size(column)
    half = -(-size // 2)
    first, second = cut(column, 0, half), cut(column, half, size - half)

    def turn(_, carry):
        own, first, second = carry
        second = _hop(second, axes, devices, -1)
        own, first = _visited(visit, own, first)
        first = _hop(first, axes, devices, 1)
        own, second = _visited(visit, own, second)
        return own, first, second

    carry = own, (first, empty(first)), (second, empty(second))
    own, (_, first), (_, second) = lax.fori_loop(0, devices, turn, carry)
    return own, jax.tree.map(lambda a, b: lax.concatenate([a, b], 0), first, second)


def gather(visit, own, column, empty, axes, *, home):
    """The columns of all devices at once, at most `GATHERED` at a time.

    Args:
        home: makes of what each device has for the gathered columns, [devices * part, ...], what all have
            for its own, [part, ...].
    """
    size = _size(column)
    step = min(size, max(1, GATHERED // lax.axis_size(axes)))

    def part(carry, start, length):
        own, guest = carry
        here = jax.tree.map(lambda x: lax.all_gather(x, axes, tiled=True), cut(column, start, length))
        own, found = visit(own, here, empty(here))
        return own, put(guest, home(found), start)

    return fold(part, (own, empty(column)), size, step)


def _size(column) -> int:
    return len(jax.tree.leaves(column)[0])


def _visited(visit, own, travelling):
    column, guest = travelling
    if not _size(column):  # the second half of a single column
        return own, travelling
    own, guest = visit(own, column, guest)
    return own, (column, guest)


def _hop(tree, axes, devices, step):
    where = [(i, (i + step) % devices) for i in range(devices)]
    return jax.tree.map(lambda x: lax.ppermute(x, axes, where) if x.size else x, tree)
