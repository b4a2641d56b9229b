"""The mesh, the path rules, and what they do to a whole train state."""

import dataclasses

import debugrun
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mmjax import optim, presets, sharding
from mmjax.contrastive.step import init_state
from mmjax.optim import Adafactor, AdamW, Lamb, Lion, Muon, Optim
from mmjax.sharding import MeshShape


def wide_state(chosen=None):
    """A train state whose matrices are large enough to be split."""
    cfg = debugrun.config()
    towers = {
        name: tower.clone(width=128, encoder=tower.encoder.clone(heads=4))
        for name, tower in cfg.towers.items()
    }
    cfg = dataclasses.replace(cfg, towers=towers, optim=chosen or cfg.optim)
    return jax.eval_shape(lambda: init_state(cfg, 8))


def by_path(tree):
    return {sharding.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        (MeshShape(), (8, 1, 1)),
        (MeshShape(data=2, fsdp=4), (2, 4, 1)),
        (MeshShape(data=2, fsdp=-1, tensor=2), (2, 2, 2)),
    ],
)
def test_mesh_fills_the_devices(shape, sizes):
    mesh = sharding.make_mesh(shape)
    assert tuple(mesh.shape.values()) == sizes
    assert tuple(mesh.shape) == ("data", "fsdp", "tensor")


@pytest.mark.parametrize("shape", [MeshShape(data=3), MeshShape(data=16), MeshShape(data=-1, fsdp=3)])
def test_mesh_that_does_not_fill_the_devices_is_refused(shape):
    with pytest.raises(ValueError, match="does not fill 8 devices"):
        sharding.make_mesh(shape)


@pytest.mark.parametrize("sizes", [dict(data=0), dict(data=-1, fsdp=-1), dict(tensor=-2)])
def test_mesh_shape_checks_its_sizes(sizes):
    with pytest.raises(ValueError, match="at most one of them -1"):
        MeshShape(**sizes)


def test_batch_that_does_not_divide_over_the_devices_is_refused():
    mesh = sharding.make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    sharding.check_batch(mesh, 12)
    with pytest.raises(ValueError, match="batch_size=10 does not divide over 4 devices; use a multiple of 4"):
        sharding.check_batch(mesh, 10)


def test_a_process_without_rows_of_its_own_is_refused(monkeypatch):
    mesh = sharding.make_mesh(MeshShape(data=2, tensor=4))
    monkeypatch.setattr(sharding.jax, "process_count", lambda: 2)
    sharding.check_batch(mesh, 8)
    monkeypatch.setattr(sharding.jax, "process_count", lambda: 4)
    with pytest.raises(ValueError, match="fsdp = 2 does not divide over 4 processes.* mesh.tensor smaller"):
        sharding.check_batch(mesh, 8)


def test_path_rules_split_transformer_weights_as_stated():
    mesh = sharding.make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    layout = by_path(sharding.shardings(mesh, wide_state()["params"]))
    blocks = "image/encoder/blocks"
    # The first axis is that of the scanned layers.
    assert layout[f"{blocks}/mlp/up/kernel"].spec == PartitionSpec(None, "fsdp", "tensor")
    assert layout[f"{blocks}/mlp/down/kernel"].spec == PartitionSpec(None, "tensor", "fsdp")
    assert layout[f"{blocks}/attention/query/kernel"].spec == PartitionSpec(None, "fsdp", "tensor", None)
    assert layout[f"{blocks}/attention/out/kernel"].spec == PartitionSpec(None, "tensor", None, "fsdp")
    assert layout["text/pieces/embedding"].spec == PartitionSpec("tensor", "fsdp")
    assert layout[f"{blocks}/norm_mlp/scale"].spec == PartitionSpec()


def test_what_no_rule_names_is_split_along_its_largest_dimension_that_divides():
    mesh = sharding.make_mesh(MeshShape(data=2, fsdp=4))
    tree = {"other": jax.ShapeDtypeStruct((3, 1002, 64), jnp.float32)}
    # 1002 does not divide by 4.
    assert sharding.shardings(mesh, tree)["other"].spec == PartitionSpec(None, None, "fsdp")


def test_a_kernel_whose_heads_do_not_divide_is_split_along_its_width():
    blocks = "image/encoder/blocks"
    for sizes, split in (((1, 1, 8), ("fsdp", "tensor")), ((1, 2, 4), "fsdp")):
        mesh = sharding.make_mesh(MeshShape(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]))
        # Of width 128, with 4 heads of 32.
        layout = by_path(sharding.shardings(mesh, wide_state()["params"]))
        heads = None if sizes[2] == 8 else "tensor"
        for name in ("query", "key", "value"):
            spec = layout[f"{blocks}/attention/{name}/kernel"].spec
            assert spec == PartitionSpec(None, split, heads, None)
        assert layout[f"{blocks}/attention/out/kernel"].spec == PartitionSpec(None, heads, None, split)
        assert layout[f"{blocks}/mlp/up/kernel"].spec == PartitionSpec(None, "fsdp", "tensor")


@pytest.mark.parametrize(
    "sizes, other, odd, layers",
    [
        ((1, 8, 1), (None, None, "fsdp"), (None, None), ("fsdp", None, None)),
        ((1, 1, 8), (None, None, "tensor"), (None, None), (None, None, None)),
        ((4, 1, 2), (None, "tensor", None), ("tensor", None), (None, None, None)),
        ((1, 4, 2), (None, None, "fsdp"), ("fsdp", None), ("fsdp", None, None)),
    ],
)
def test_what_no_rule_names_is_split_over_tensor_where_fsdp_splits_nothing_but_not_by_layers(
    sizes, other, odd, layers
):
    mesh = sharding.make_mesh(MeshShape(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]))
    tree = {
        "other": jnp.zeros((3, 1002, 64)),
        "odd": jnp.zeros((4, 1025)),
        "blocks": {"other": jnp.zeros((1024, 3, 5))},
    }
    layout = by_path(sharding.shardings(mesh, tree))
    assert layout["other"].spec == PartitionSpec(*other)
    assert layout["odd"].spec == PartitionSpec(*odd)
    assert layout["blocks/other"].spec == PartitionSpec(*layers)


MESHES = [MeshShape(data=1, fsdp=8), MeshShape(data=2, fsdp=2, tensor=2), MeshShape(data=1, tensor=8)]
RULES = {  # rule: how many arrays it keeps for one parameter, of the parameter's shape or less
    AdamW(): 2,
    AdamW(moment="bfloat16"): 2,
    Adafactor(): 4,
    Lion(): 1,
    Lamb(): 2,
    Muon(): 1,
}


@pytest.mark.parametrize("shape", MESHES, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_optimizer_state_lies_as_its_parameters_and_no_large_array_is_replicated(rule, shape):
    mesh = sharding.make_mesh(shape)
    state = wide_state(Optim(rule=rule, ema=0.9))
    layout = by_path(sharding.shardings(mesh, state))
    shapes = by_path(state)
    params = [path.removeprefix("params/") for path in layout if path.startswith("params/")]
    moments = [(path, name) for path in layout for name in params if path.endswith(f"/{name}")]
    moments = [(path, name) for path, name in moments if not path.startswith("params/")]
    # The average is one array more; Muon keeps two for what is no matrix.
    assert len(moments) >= (1 + RULES[rule]) * len(params)
    same = [(path, name) for path, name in moments if shapes[path].shape == shapes[f"params/{name}"].shape]
    assert len(same) >= 2 * len(params)
    for path, name in same:
        assert layout[path].spec == layout[f"params/{name}"].spec, path
    large = [path for path, shape in shapes.items() if shape.size >= 2**14]
    assert large
    for path in large:
        assert not layout[path].is_fully_replicated, path


def test_a_factored_moment_is_split_along_an_axis_of_the_matrix_and_never_by_layers():
    mesh = sharding.make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    tree = {name: {"mlp": {"up": {"kernel": jnp.zeros((2, 4096))}}} for name in ("v_row", "mu")}
    layout = by_path(sharding.shardings(mesh, tree))
    assert layout["v_row/mlp/up/kernel"].spec == PartitionSpec(None, "fsdp")
    assert layout["mu/mlp/up/kernel"].spec == PartitionSpec("fsdp", "tensor")


def test_state_is_created_where_it_belongs():
    cfg = debugrun.config()
    mesh = sharding.make_mesh(MeshShape(data=1, fsdp=8))
    layout = sharding.shardings(mesh, jax.eval_shape(lambda: init_state(cfg, 8)))
    with jax.set_mesh(mesh):
        state = jax.jit(lambda: init_state(cfg, 8), out_shardings=layout)()
    alone = debugrun.state()
    for leaf, where, expected in zip(
        jax.tree.leaves(state), jax.tree.leaves(layout), jax.tree.leaves(alone), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(where, leaf.ndim)
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-7)


def test_constrain_is_the_identity_without_a_mesh_and_shards_with_one():
    x = jnp.arange(32.0).reshape(8, 4)
    assert sharding.constrain(x, "batch", None) is x
    mesh = sharding.make_mesh(MeshShape())
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: sharding.constrain(x, "batch", None))(x)
    np.testing.assert_array_equal(y, x)
    assert {shard.data.shape for shard in y.addressable_shards} == {(1, 4)}


def test_put_batch_splits_rows_over_the_devices_in_order():
    mesh = sharding.make_mesh(MeshShape(data=4, fsdp=2))
    batch = sharding.put_batch(mesh, {"x": np.arange(16)})
    rows = [np.asarray(shard.data).tolist() for shard in batch["x"].addressable_shards]
    assert sorted(rows) == [[2 * i, 2 * i + 1] for i in range(8)]
    np.testing.assert_array_equal(batch["x"], np.arange(16))


@pytest.mark.parametrize("rows", [1, 8, 19])
def test_rows_are_padded_with_zeros_until_they_divide(rows):
    mesh = sharding.make_mesh(MeshShape())
    x_ND = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    put = sharding.put_rows(mesh, {"x": x_ND, "n": np.arange(rows)})
    assert put["x"].sharding == sharding.batch_sharding(mesh) and put["x"].shape[0] % 8 == 0
    np.testing.assert_array_equal(put["x"][:rows], x_ND)
    np.testing.assert_array_equal(put["n"][:rows], np.arange(rows))
    assert not np.any(put["x"][rows:]) and len(put["n"]) - rows < 8


PUBLISHED = [name for name in presets.names() if not name.endswith("-quickgelu")]


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_array_of_a_published_model_over_a_mebibyte_is_replicated_by_accident(name):
    found = states(name)
    large = [path for path, leaf in by_path(found).items() if leaf.size * leaf.dtype.itemsize > 2**20]
    assert large or name == "ViT-mu-16-SigLIP"
    for shape in MESHES:
        layout = by_path(sharding.shardings(sharding.make_mesh(shape), found))
        for path in large:
            assert not layout[path].is_fully_replicated, (shape, path)
    # Every device of a mesh that splits the batch alone has all parameters, which is what it is for.
    alike = by_path(sharding.shardings(sharding.make_mesh(MeshShape(data=8)), found))
    assert all(alike[path].is_fully_replicated for path in large)


def states(name):
    """Shapes of a published model's parameters, and of the state of each rule for them."""
    preset = presets.preset(name)
    size = preset.preprocess.size
    inputs = {
        "image": jnp.zeros((1, size, size, 3)),
        "text": jnp.zeros((1, preset.text.length), jnp.int32),
    }

    def state():
        params = {
            modality: tower.init(jax.random.key(0), inputs[modality])["params"]
            for modality, tower in preset.towers().items()
        }
        rules = {repr(rule): optim.make(Optim(rule=rule), 10).init(params) for rule in RULES}
        return {"params": params, **rules}

    return jax.eval_shape(state)
