"""The checkpoint contract: what of a workdir is found, and what of it is read."""

import logging
import pathlib
import re
import shutil

import debugrun
import jax
import numpy as np
import pytest
import tensorstore

from mmjax import config, sharding
from mmjax.checkpoint import Checkpointing, Checkpoints
from mmjax.data.labels import OneClass
from mmjax.finetune import Classify, Task, base
from mmjax.finetune.setup import set_up
from mmjax.sharding import MeshShape

TEXT = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Steps 10 and 20 of a debug run, as eight devices along `data` write them."""
    workdir = tmp_path_factory.mktemp("runs") / "debug"
    state = debugrun.state()
    params = state["params"] | {"text": {"table": TEXT}}
    state = {"params": params, "opt_state": {"moment": TEXT}, "step": np.int32(0)}
    mesh = sharding.make_mesh(MeshShape())
    saves = Checkpoints(workdir / "checkpoints", Checkpointing(keep_last=5))
    for step in (10, 20):
        moved = state | {"params": jax.tree.map(lambda x, step=step: x + np.float32(step), params)}
        saves.save(step, jax.device_put(moved, sharding.shardings(mesh, moved)), {"next_index": 16 * step})
    saves.wait()
    saves.close()
    (workdir / "config.json").write_text(config.to_json(debugrun.config()))
    return workdir


def tower_shapes(found, mesh):
    shapes = {"image": found.shapes()["image"]}
    return sharding.with_layout(shapes, sharding.shardings(mesh, shapes))


def paths(tree):
    return [sharding.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def damage(workdir: pathlib.Path, kept: str, *, step=20, item="params"):
    """Overwrites all arrays of a step but those of `item` whose path `kept` matches; shapes stay."""
    saved = workdir / "checkpoints" / str(step)
    for path in saved.rglob("*"):
        if path.is_file() and path.relative_to(saved).parts[0] in {"params", "ema", "rest"} - {item}:
            path.write_bytes(b"damaged")
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{saved / item}/"}).result()
    for key in store.list().result():
        array, part = key.decode().rsplit("/", 1)
        if not part.startswith(".z") and not re.search(kept, array.replace(".", "/")):
            store.write(key, b"damaged").result()


@pytest.fixture
def copy(workdir, tmp_path):
    return shutil.copytree(workdir, tmp_path / "copy")


def test_a_tower_is_read_on_another_mesh_and_nothing_else_is(copy):
    damage(copy, "^image/")
    found = base.find(str(copy))
    assert found.step == 20 and found.tower("image") == debugrun.config().towers["image"]
    wanted = tower_shapes(found, sharding.make_mesh(MeshShape(data=2, fsdp=2, tensor=2)))
    params = found.restore(wanted)
    expected = jax.tree.map(lambda x: x + np.float32(20), debugrun.state()["params"]["image"])
    jax.tree.map(np.testing.assert_array_equal, params["image"], expected)
    jax.tree.map(
        lambda x, at: x.sharding.is_equivalent_to(at.sharding, x.ndim) or pytest.fail(at), params, wanted
    )


def test_a_damaged_array_that_is_needed_is_refused(copy):
    damage(copy, "^image/")
    found = base.find(str(copy))
    # One read: others would fail later than the test ends.
    one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {"text": {"table": jax.ShapeDtypeStruct(TEXT.shape, TEXT.dtype, sharding=one_device)}}
    told = r'^step 20 of \S+ is damaged: .*Error reading "text.table/.*; other steps there: \[10\]; .*$'
    with pytest.raises(ValueError, match=told):
        found.restore(wanted)


def test_shapes_are_told_without_reading_an_array(copy):
    damage(copy, "^$")
    shapes = base.find(str(copy)).shapes()
    assert set(shapes) == {"image", "text", "objective"} and shapes["text"]["table"].shape == TEXT.shape


def test_the_log_says_what_becomes_of_every_parameter(workdir, caplog):
    task = Task(labels=OneClass(names=("a", "b")))
    cfg = Classify(init_from="", tasks={"class": task}, data=debugrun.config().data, steps=1)
    setup = set_up(cfg, base.find(str(workdir)))
    with caplog.at_level(logging.INFO, "mmjax"):
        setup.weights.report()
    said = [re.match(r"  (fresh|left out) +(\S+) ", record.getMessage()) for record in caplog.records]
    named = sorted(match.groups() for match in said if match)
    there = setup.base.shapes()
    whole = len(paths(there["image"]))
    assert f"image: {whole} of {whole} parameters are restored as they are" in caplog.text
    left = [("left out", path) for path in paths(there) if not path.startswith("image/")]
    assert named == sorted(
        [*left, ("fresh", "head/class/logits/kernel"), ("fresh", "head/class/logits/bias")]
    )


def test_a_step_can_be_named(workdir):
    found = base.find(f"{workdir}@10")
    assert (found.step, found.name) == (10, f"{workdir}@10")
    wanted = tower_shapes(found, sharding.make_mesh(MeshShape()))
    expected = debugrun.state()["params"]["image"]["positions"] + np.float32(10)
    np.testing.assert_array_equal(found.restore(wanted)["image"]["positions"], expected)


@pytest.mark.parametrize(
    "spec, message",
    [
        ("", "init_from='': no run in .*; give the --workdir of a training run"),
        ("nowhere", "init_from='nowhere': no run in .*nowhere: .*config.json is not there; give the"),
        ("{}@15", r"init_from='.*@15': no weights of step 15 in .*; saved are the steps \[10, 20\]"),
        ("{}@best", r"init_from='.*@best': no weights in .*/best; saved are the steps \[\]"),
    ],
)
def test_a_run_or_step_that_is_not_there_is_refused(workdir, spec, message):
    with pytest.raises(ValueError, match=message):
        base.find(spec.format(workdir))


def test_a_tower_that_is_not_there_is_refused(workdir):
    with pytest.raises(
        ValueError, match="has no tower for 'audio', only for image, text; ask for one of these"
    ):
        base.find(str(workdir)).tower("audio")
