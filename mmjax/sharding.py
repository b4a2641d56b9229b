"""Where every array lives: the mesh, and one function of (path, shape) that shards any tree.

The only file that names mesh axes. `data` splits the batch; `fsdp` splits the batch and the parameters
(Zhao et al. 2023, arXiv:2304.11277); `tensor` splits heads and MLP widths (Shoeybi et al. 2019,
arXiv:1909.08053). Modules carry no sharding of their own, so any Flax module can be a tower.
"""

import dataclasses
import math
import re

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

_AXES = {"batch": ("data", "fsdp"), "embed": "fsdp", "heads": "tensor", "mlp": "tensor", "vocab": "tensor"}

# Path patterns to the logical axes of the trailing dimensions; the layer axis of scanned blocks comes before.
_RULES = (
    (r"(query|key|value)/kernel$", ("embed", "heads", None)),
    (r"out/kernel$", ("heads", None, "embed")),
    (r"up/kernel$", ("embed", "mlp")),
    (r"down/kernel$", ("mlp", "embed")),
    (r"pieces/embedding$", ("vocab", "embed")),
)

# Adafactor's factored moments end in the path of a parameter, but lack one of its axes.
_FACTORED = re.compile(r"(^|/)v_(row|col)/")

_Split = tuple[tuple[str, ...], ...]  # the mesh axes that each dimension of an array is split over

# Splitting a bias or a norm saves nothing and costs a collective a layer.
_SMALL = 2**12


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
    """Devices along each mesh axis; one of them may be -1, "all the rest"."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = dataclasses.astuple(self)
        if sizes.count(-1) > 1 or any(n < 1 and n != -1 for n in sizes):
            raise ValueError(f"mesh {sizes}: give positive sizes, at most one of them -1")


def make_mesh(shape: MeshShape, devices=None) -> Mesh:
    """The mesh of `shape` over all devices of all processes.

    Raises:
        ValueError: the devices do not fill the shape.
    """
    devices = jax.devices() if devices is None else devices
    sizes = list(dataclasses.astuple(shape))
    if -1 in sizes:
        sizes[sizes.index(-1)] = len(devices) // -math.prod(sizes)
    if math.prod(sizes) != len(devices):
        given = " x ".join(map(str, dataclasses.astuple(shape)))
        raise ValueError(
            f"mesh data x fsdp x tensor = {given} does not fill {len(devices)} devices; "
            "the product of the sizes must be the number of devices (-1 takes the rest)"
        )
    # Auto: under the newer default, Explicit, einops patchify on a sharded batch fails.
    return jax.make_mesh(
        tuple(sizes), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3, devices=devices
    )


def batch_axes() -> tuple[str, ...]:
    """Mesh axes that the batch is split over, for collectives inside `jax.shard_map`."""
    return _AXES["batch"]


def batch_spec() -> PartitionSpec:
    """Of an array whose first axis is the batch."""
    return PartitionSpec(_AXES["batch"])


def batch_devices(mesh: Mesh | AbstractMesh) -> int:
    """Number of parts that the batch is split into; 1 for the empty mesh of no context."""
    return math.prod(mesh.shape.get(axis, 1) for axis in _AXES["batch"])


def free_axes(mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """Mesh axes that no surrounding `jax.shard_map` has taken."""
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in kinds if kind != AxisType.Manual)


def explicit_axes(mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """Mesh axes along which arrays lie as their types say, not as the compiler sees fit."""
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return tuple(name for name, kind in kinds if kind == AxisType.Explicit)


def unknown_axes(mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """Free mesh axes of several devices whose names no rule knows, so that nothing is split over them."""
    known = {name for rule in _AXES.values() for name in ((rule,) if isinstance(rule, str) else rule)}
    return tuple(a for a in free_axes(mesh) if a not in known and mesh.shape[a] > 1)


def split(mesh: Mesh | AbstractMesh, axis: str, count: int) -> tuple[str, ...]:
    """Free mesh axes that a logical axis of `count` entries is split over; none where it does not divide."""
    rule = _AXES[axis]
    names = tuple(a for a in ((rule,) if isinstance(rule, str) else rule) if a in free_axes(mesh))
    return () if count % devices(mesh, names) else names


def devices(mesh: Mesh | AbstractMesh, axes: tuple[str, ...]) -> int:
    """Number of parts along mesh axes."""
    return math.prod(mesh.shape[axis] for axis in axes)


def check_batch(mesh: Mesh, batch_size: int):
    """Raises ValueError unless `batch_size` divides over the mesh, and each process has rows of its own."""
    n, processes = batch_devices(mesh), jax.process_count()
    if n % processes:
        raise ValueError(
            f"mesh data x fsdp = {n} does not divide over {processes} processes, which each feed rows of "
            "their own; make mesh.tensor smaller"
        )
    if batch_size < 1 or batch_size % n:
        raise ValueError(f"batch_size={batch_size} does not divide over {n} devices; use a multiple of {n}")


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, batch_spec())


def shardings(mesh: Mesh, tree):
    """A NamedSharding for every leaf of `tree` (arrays or `jax.ShapeDtypeStruct`s), by its path and shape.

    Works on parameters and on a whole train state alike: the moments of an optimizer end in the path of
    their parameter. What no pattern names gets its largest dimension that divides on `fsdp`, or on `tensor`
    where `fsdp` splits none. A kernel with heads or an MLP width that do not divide over `tensor` is split
    over it along its largest dimension that does. Layers are never split over `tensor`. What an objective
    remembers of past batches, `memory` of a train state, is split as a batch is.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, _spec(mesh, path_name(path), leaf.shape)), tree
    )


def with_layout(shapes, layout):
    """A tree of `jax.ShapeDtypeStruct`s that say where they live."""
    return jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, layout
    )


def path_name(path) -> str:
    """A key path as `image/blocks/mlp/up/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def put_batch(mesh: Mesh, batch):
    """This process's rows of a batch as global arrays, their first axis split over the mesh."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def put_rows(mesh: Mesh, tree):
    """Arrays that every process holds whole as global ones, their first axis split over the mesh.

    Zeros are added to it, as rows at the end, until it divides.
    """
    parts = batch_devices(mesh)

    def put(x):
        x = np.pad(x, ((0, -len(x) % parts),) + ((0, 0),) * (x.ndim - 1))
        return put_batch(mesh, np.split(x, jax.process_count())[jax.process_index()])

    return jax.tree.map(put, tree)


def constrain(x, *axes):
    """`x` laid out by the logical axes of its dimensions (`"batch"`, None, ...); as is without a mesh.

    Called once a block by every tower: it keeps XLA from resharding activations on its own.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[_AXES[a] if a else None for a in axes]))


def layer_axes(path: str) -> int:
    """How many of the first axes of an array count layers: 1 or 0."""
    return 1 if "/blocks/" in f"/{path}" else 0


def _spec(mesh: Mesh, path: str, shape: tuple[int, ...]) -> PartitionSpec:
    if path.startswith("memory/"):
        return batch_spec() if shape and shape[0] % batch_devices(mesh) == 0 else PartitionSpec()
    if math.prod(shape) < _SMALL:
        return PartitionSpec()
    split = _by_rule(mesh, path, shape)
    if split is None:
        split = _split_largest(mesh, "fsdp", ((),) * len(shape), shape, first=0)
        if any(split):
            return _partition(split)
    if ("tensor",) not in split:
        split = _split_largest(mesh, "tensor", split, shape, first=layer_axes(path))
    return _partition(split)


def _by_rule(mesh: Mesh, path: str, shape: tuple[int, ...]) -> _Split | None:
    """What the first rule that names `path` says, but for dimensions that do not divide; None without one."""
    if _FACTORED.search(path):
        return None
    for pattern, axes in _RULES:
        if re.search(pattern, path) and len(shape) >= len(axes):
            names = [None] * (len(shape) - len(axes)) + [_AXES[a] if a else None for a in axes]
            sized = zip(names, shape, strict=True)
            return tuple((name,) if name and n % mesh.shape[name] == 0 else () for name, n in sized)
    return None


def _split_largest(mesh: Mesh, axis: str, split: _Split, shape: tuple[int, ...], *, first: int) -> _Split:
    """`split` with `axis` added to the largest dimension, from `first` on, that then divides; as is without
    one."""
    if mesh.shape[axis] == 1:
        return split
    with_axis = tuple((*axes, axis) for axes in split)
    parts = [math.prod(mesh.shape[a] for a in axes) for axes in with_axis]
    divisible = [n if i >= first and n % parts[i] == 0 else 0 for i, n in enumerate(shape)]
    best = divisible.index(max(divisible))
    return split[:best] + with_axis[best : best + 1] + split[best + 1 :] if divisible[best] else split


def _partition(split: _Split) -> PartitionSpec:
    return PartitionSpec(*[axes if len(axes) > 1 else axes[0] if axes else None for axes in split])
