"""One call of attention on every platform and mesh that it may be compiled for: each device has its own
examples and heads, and the platform's implementation runs on them.

Where that is a kernel, the gradient is taken outside of `jax.shard_map` and of the choice by platform:
differentiated inside, every platform would keep what the others' backward passes need.

Letters: B batch, S positions, X = heads x head width.
"""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh, PartitionSpec

from mmjax import sharding
from mmjax.kernels.attention import choice, devices, xla
from mmjax.kernels.attention.case import Arrays, Case
from mmjax.kernels.attention.choice import MEMBERS
from mmjax.kernels.attention.preparation import prepared

log = logging.getLogger("mmjax")

# Name of the output, and of what else a kernel's backward pass needs, for policies of `jax.checkpoint`.
SAVED = "attention"


@dataclasses.dataclass(frozen=True)
class _Branch:
    platform: devices.Platform | None  # None: any other
    name: str
    interpret: bool = False


@dataclasses.dataclass(frozen=True)
class _Plan:
    whole: Case  # of all devices
    case: Case  # of one
    branches: tuple[_Branch, ...]
    mesh: AbstractMesh | None  # None where there is nothing to be split over
    batch: tuple[str, ...]  # mesh axes over which the batch is split
    heads: tuple[str, ...]

    def spread(self, function, arguments, results):
        """`function` on each device's part; trees of letters say how its arguments and results lie.

        Letters: x of all heads, b of examples, a the same for all, k kept on its device.
        """
        if self.mesh is None:
            return function
        specs = {
            "x": PartitionSpec(self.batch, None, self.heads),
            "b": PartitionSpec(self.batch),
            "a": PartitionSpec(),
            "k": PartitionSpec((*self.batch, *self.heads)),
        }
        ins, outs = (jax.tree.map(specs.get, letters) for letters in (arguments, results))
        axes = set(sharding.free_axes(self.mesh))
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=ins, out_specs=outs, axis_names=axes, check_vma=False
        )


def attend(implementation: choice.Implementation, case: Case, arrays: Arrays):
    """[B, S, X] by the implementation, on the mesh of the surrounding `jax.set_mesh`."""
    mesh = jax.sharding.get_abstract_mesh()
    if explicit := sharding.explicit_axes(mesh):
        # Arrays lie in the caller's way there, and the output as queries do.
        where = jax.typeof(arrays.q_BSX).sharding.spec
        run = functools.partial(attend, implementation, case)
        return jax.sharding.auto_axes(run, axes=explicit, out_sharding=where)(arrays)
    plan = _plan(implementation, case, mesh)
    if {branch.name for branch in plan.branches} == {"xla"}:
        # XLA splits it as it splits the layers around it, and keeps the probabilities for the gradient.
        return checkpoint_name(xla.attend(case, prepared(case, arrays)), SAVED)
    if unknown := sharding.unknown_axes(mesh):
        _warn_of_axes(unknown)
    return _attend(plan, arrays)


def _plan(implementation, case: Case, mesh: AbstractMesh) -> _Plan:
    batch, heads = (
        sharding.split(mesh, axis, size) for axis, size in (("batch", case.batch), ("heads", case.heads))
    )
    local = dataclasses.replace(
        case,
        batch=case.batch // sharding.devices(mesh, batch),
        heads=case.heads // sharding.devices(mesh, heads),
    )
    branches = []
    for platform, name in choice.choose(implementation, local).items():
        # A kernel that is asked for is compiled where it is at home, and interpreted elsewhere.
        if platform is None or platform in devices.compilable():
            branches.append(_Branch(platform, name))
        if platform is not None and implementation.startswith("pallas") and not devices.is_target(platform):
            _warn(name, platform)
            branches.append(_Branch(None, name, interpret=True))
    spread_over = mesh if sharding.devices(mesh, sharding.free_axes(mesh)) > 1 else None
    return _Plan(case, local, tuple(branches), spread_over, batch, heads)


@functools.cache
def _warn(name, platform):
    log.warning("no device of platform %s is here: %s is interpreted, which is slow", platform, name)


@functools.cache
def _warn_of_axes(unknown):
    log.warning(
        "mesh axes %s split no array by name: along them every device computes all of attention; name them "
        "as sharding.make_mesh does, or call it within jax.shard_map",
        unknown,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: _Plan, arrays):
    return _forward(plan, arrays)[0]


def _forward(plan, arrays):
    kept = [jax.eval_shape(lambda b=b: _forward_of(plan, b, arrays)[1]) for b in plan.branches]

    def run(i, arrays):
        y_BSX, own = _forward_of(plan, plan.branches[i], arrays)
        others = [jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), other) for other in kept]
        return y_BSX, (*others[:i], own, *others[i + 1 :])

    y_BSX, kept = _by_platform(plan, run, arrays)
    y_BSX = checkpoint_name(y_BSX, SAVED)
    # Without such sums of rows a saved output would not save the forward kernel from running again.
    kept = jax.tree.map(lambda x: checkpoint_name(x, SAVED) if x.size < y_BSX.size else x, kept)
    return y_BSX, (arrays, y_BSX, kept)


def _backward(plan, residuals, gradient_BSX):
    def run(i, arrays, y_BSX, kept, gradient_BSX):
        return _backward_of(plan, plan.branches[i], arrays, y_BSX, kept[i], gradient_BSX)

    return (_by_platform(plan, run, *residuals, gradient_BSX),)


_attend.defvjp(_forward, _backward)


def _by_platform(plan: _Plan, run, *args):
    """`run(i, *args)` of the branch for the platform that this is compiled for."""
    runs = {branch.platform: functools.partial(run, i) for i, branch in enumerate(plan.branches)}
    if len(runs) == 1:
        return run(0, *args)
    default = runs.pop(None, None)
    return lax.platform_dependent(*args, default=default, **runs)


def _lying(arrays: Arrays) -> Arrays:
    """Letters, as `_Plan.spread` has them."""
    own = arrays.angles_BSP is not None and len(arrays.angles_BSP) > 1
    return Arrays("x", "x", "x", "b", "b", "a", "b" if own else "a")


# Jitted so that a kernel is traced once for all layers of all towers that have the same case.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward_of(plan: _Plan, branch: _Branch, arrays: Arrays):
    """The output, and what the backward half wants beside it and the arrays."""
    if not choice.prepares(branch.name, plan.case):
        arrays = prepared(plan.whole, arrays)
    if branch.name == "xla":
        return xla.attend(plan.whole, arrays), None
    member = MEMBERS[branch.name]

    def local(arrays):
        y_BSX, kept = member.forward(plan.case, arrays, interpret=branch.interpret)
        return y_BSX, jax.tree.map(lambda x: x[None], kept)

    return plan.spread(local, (_lying(arrays),), ("x", "k"))(arrays)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _backward_of(plan: _Plan, branch: _Branch, arrays: Arrays, y_BSX, kept, gradient_BSX) -> Arrays:
    """Gradients by queries, keys, values and gains."""
    if choice.prepares(branch.name, plan.case):
        return _backward_of_kernel(plan, branch, arrays, y_BSX, kept, gradient_BSX)

    def prepare(q_BSX, k_BTX, gains_2K):
        return prepared(plan.whole, arrays._replace(q_BSX=q_BSX, k_BTX=k_BTX, gains_2K=gains_2K))[:2]

    (q_BSX, k_BTX), pull = jax.vjp(prepare, arrays.q_BSX, arrays.k_BTX, arrays.gains_2K)
    made = arrays._replace(q_BSX=q_BSX, k_BTX=k_BTX, gains_2K=None, angles_BSP=None)
    if branch.name == "xla":
        # Scores again: kept, they would lie idle on every other platform.
        _, pull_scores = jax.vjp(lambda *qkv: xla.attend(plan.whole, Arrays(*qkv, *made[3:])), *made[:3])
        by_q_BSX, by_k_BTX, by_v_BTX = pull_scores(gradient_BSX)
    else:
        found = _backward_of_kernel(plan, branch, made, y_BSX, kept, gradient_BSX)
        by_q_BSX, by_k_BTX, by_v_BTX = found[:3]
    by_q_BSX, by_k_BTX, by_gains_2K = pull((by_q_BSX, by_k_BTX))
    return Arrays(by_q_BSX, by_k_BTX, by_v_BTX, gains_2K=by_gains_2K)


def _backward_of_kernel(plan, branch, arrays, y_BSX, kept, gradient_BSX):
    member = MEMBERS[branch.name]

    def local(arrays, y_BSX, kept, gradient_BSX):
        kept = jax.tree.map(lambda x: x[0], kept)
        found = member.backward(plan.case, arrays, y_BSX, kept, gradient_BSX, interpret=branch.interpret)
        gains_12K = jax.tree.map(lambda x: x[None], found.gains_2K)
        return *found[:3], gains_12K

    spread = plan.spread(local, (_lying(arrays), "x", "k", "x"), ("x", "x", "x", "k"))
    *by_qkv, gains_D2K = spread(arrays, y_BSX, kept, gradient_BSX)
    return Arrays(*by_qkv, gains_2K=jax.tree.map(lambda x: x.sum(0), gains_D2K))  # over devices
