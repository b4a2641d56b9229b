"""Attention inside what training wraps around it: meshes, vmap, scan, remat, micro-batches, towers."""

import functools

import attending
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tinyclip
from attending import MEMBERS, RESULTS, Example, random
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mmjax import sharding
from mmjax.kernels.attention import SAVED, attention, devices
from mmjax.sharding import MeshShape
from mmjax.towers.vit import ViT


def attend_of(member, example):
    return functools.partial(attention, implementation=member, **example.options)


def close(found, expected, tolerance=1e-6):
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=tolerance * np.abs(two).max())


@pytest.mark.parametrize(
    "mesh, batch, heads, over",
    [
        ((2, 2, 2), 8, 4, (("data", "fsdp"), ("tensor",))),
        ((1, 1, 8), 2, 8, (("data", "fsdp"), ("tensor",))),
        ((2, 2, 2), 8, 3, (("data", "fsdp"), ())),  # heads that do not divide are everywhere
        ((2, 2, 2), 6, 2, ((), ("tensor",))),
    ],
    ids=str,
)
@pytest.mark.parametrize("member", MEMBERS)
def test_on_every_mesh_it_gives_what_it_gives_on_one_device(member, mesh, batch, heads, over):
    fields = dict.fromkeys(("lengths", "segments", "norm", "rope"), True)
    example = Example(length=13, batch=batch, heads=heads, **fields)
    mesh = sharding.make_mesh(MeshShape(**dict(zip(("data", "fsdp", "tensor"), mesh, strict=True))))
    assert (sharding.split(mesh, "batch", batch), sharding.split(mesh, "heads", heads)) == over
    where = NamedSharding(mesh, PartitionSpec(over[0], None, over[1]))

    with jax.set_mesh(mesh):
        found = jax.jit(attending.run(member, example))(*jax.device_put(example.poisoned, where))
    assert all(found[name].sharding.is_equivalent_to(where, 3) for name in RESULTS)
    close(found.values(), [attending.found(member, example)[name] for name in found])


@pytest.mark.parametrize("member", MEMBERS)
def test_inside_shard_map_it_takes_the_part_that_it_is_given(member):
    example = Example(length=13, batch=8, heads=2)
    mesh = sharding.make_mesh(MeshShape(data=8))
    spec = sharding.batch_spec()
    attend = attend_of(member, example)
    with jax.set_mesh(mesh):
        spread = jax.shard_map(attend, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)
        output = jax.jit(spread)(*example.arrays[:3])
    close([output], [attending.found(member, example)["output"]])


@pytest.mark.parametrize("member", MEMBERS)
def test_where_types_say_how_arrays_lie_the_output_lies_like_queries(member):
    """`jax.make_mesh` makes such meshes. However it lies, each device takes its own examples and heads."""
    example = Example(length=5, batch=4, heads=2, width=8, lengths=True, norm=True, rope=True)
    q, k, v, gradient = example.poisoned
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 3)
    by_row, by_head = PartitionSpec("data", None, None), PartitionSpec(None, None, "tensor")
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, NamedSharding(mesh, by_row)) for x in (q, k, v, gradient)]
        placed[1] = jax.device_put(k, NamedSharding(mesh, by_head))
        found = jax.jit(attending.run(member, example))(*placed)
    assert [found[name].sharding.spec for name in RESULTS] == [by_row, by_row, by_head, by_row]
    close(found.values(), [attending.found(member, example)[name] for name in found])


def test_axes_of_a_mesh_that_split_nothing_are_told_of_once(caplog):
    example = Example(length=5, batch=4, width=8)
    mesh = jax.make_mesh((2, 4), ("replica", "data"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        for _ in range(2):
            output = attend_of("pallas_tpu", example)(*example.arrays[:3])
    close([output], [attending.found("pallas_tpu", example)["output"]])
    told = [line for line in caplog.messages if line.startswith("mesh axes")]
    assert len(told) == 1 and told[0].startswith("mesh axes ('replica',) split no array")


@pytest.mark.parametrize("member", MEMBERS)
def test_vmap_is_a_loop(member):
    example = Example(length=13, lengths=True, causal=True)
    lengths_VB = jnp.array([[13, 0], [5, 9], [1, 13]], jnp.int32)
    q_VBSX, gradient_VBSX = (random((3, *example.arrays[0].shape), seed) for seed in range(2))
    _, k_BSX, v_BSX, _ = example.arrays

    def run(q, lengths, gradient):
        output, pull = jax.vjp(
            lambda q, k: attention(
                q, k, v_BSX, num_heads=2, causal=True, lengths=lengths, implementation=member
            ),
            *(q, k_BSX),
        )
        return output, *pull(gradient)

    many = jax.jit(jax.vmap(run))(q_VBSX, lengths_VB, gradient_VBSX)
    one = jax.jit(run)
    for i in range(3):
        close([x[i] for x in many], one(q_VBSX[i], lengths_VB[i], gradient_VBSX[i]))


@pytest.mark.parametrize("member", MEMBERS)
def test_scanned_and_rematerialised_it_has_the_same_gradient(member):
    example = Example(length=13, causal=True)
    x_BSX, *_, gradient_BSX = example.arrays
    gains_L = jnp.array([0.5, -0.8, 1.2])

    def layer(x_BSX, gain):
        return x_BSX + gain * attend_of(member, example)(x_BSX, x_BSX, x_BSX), None

    def run(layer):
        def apply(x_BSX):
            return jax.lax.scan(layer, x_BSX, gains_L)[0]

        return jax.jit(lambda x, g: jax.vjp(apply, x)[1](g))(x_BSX, gradient_BSX)

    expected = run(layer)
    for policy in (None, jax.checkpoint_policies.save_only_these_names(SAVED)):
        close(run(jax.checkpoint(layer, policy=policy, prevent_cse=False)), expected)


@pytest.mark.parametrize("member", MEMBERS)
def test_policies_can_save_the_output(monkeypatch, member):
    """A kernel runs forward and backward then, and otherwise forward once more."""
    monkeypatch.setattr(devices, "compilable", frozenset)
    x_BSX = random((2, 5, 64))

    def saved(name):
        """How many arrays of the output's size, and how often a kernel runs in all."""
        layer = jax.checkpoint(
            lambda x: jnp.sin(attention(x, x, x, num_heads=2, implementation=member)).sum(),
            policy=jax.checkpoint_policies.save_only_these_names(name),
        )
        kept = jax.eval_shape(lambda x: jax.vjp(layer, x)[1], x_BSX)
        program = jax.make_jaxpr(jax.grad(layer))(x_BSX)
        return sum(leaf.shape == x_BSX.shape for leaf in jax.tree.leaves(kept)), kernels(program.jaxpr)

    (arrays, fewest), (others, most) = saved(SAVED), saved("nothing")
    assert arrays == others + 1
    assert (fewest, most) == ((0, 0) if member == "xla" else (2, 3))


def kernels(jaxpr) -> int:
    inner = [x for eqn in jaxpr.eqns for x in jaxprs_in_params(eqn.params)]
    return sum(eqn.primitive.name == "pallas_call" for eqn in jaxpr.eqns) + sum(map(kernels, inner))


@pytest.mark.parametrize("member", [member for member in MEMBERS if member != "xla"])
def test_towers_train_alike_in_micro_batches_on_a_mesh(member):
    def config(accumulate, **fields):
        encoder = tinyclip.ENCODER.clone(dropout=0.1, **fields)
        towers = {"image": ViT(width=32, patch=8, embed=8, encoder=encoder), "text": tinyclip.Linear()}
        return tinyclip.config(16, towers=towers, accumulate=accumulate)

    cfg, plain = config(2, attention=member, remat="dots"), config(1, attention="xla")
    params, batch, key = tinyclip.params(cfg), tinyclip.batch(16), jax.random.key(0)
    (loss, _), gradient = tinyclip.value_and_grad(cfg, params, batch, key, tinyclip.mesh_of((2, 2, 2)))
    (right, _), expected = tinyclip.value_and_grad(plain, params, batch, key)
    np.testing.assert_allclose(loss, right, rtol=1e-5)
    assert tinyclip.distance(gradient, expected) < 1e-5
