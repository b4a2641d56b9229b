"""Checkpoints: what comes back, what is kept, and what happens when a save fails."""

import re
import subprocess
import sys

import debugrun
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import checkpoint, sharding
from mmjax.checkpoint import Checkpointing, Checkpoints
from mmjax.sharding import MeshShape

EVERY = Checkpointing(every_minutes=None, keep_last=10)


def small(value=0.0):
    return {"params": {"w": jnp.full(4, value)}, "step": jnp.int32(3)}


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def save_all(directory, config, steps):
    saves = Checkpoints(directory, config)
    for step in steps:
        saves.save(step, small(step), {})
    saves.wait()
    saves.close()


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def layout(mesh_shape, state):
    return sharding.shardings(sharding.make_mesh(mesh_shape), state)


def test_a_train_state_comes_back_bit_for_bit_on_its_own_mesh_and_on_another(tmp_path):
    state, where = debugrun.state(), layout(MeshShape(), debugrun.state())
    saves = Checkpoints(tmp_path, EVERY)
    saves.save(7, jax.device_put(state, where), {"next_index": 112})
    saves.wait()
    other = layout(MeshShape(data=2, fsdp=2, tensor=2), state)
    assert any(not spec.is_fully_replicated for spec in jax.tree.leaves(other))
    for target in (where, other):
        restored, meta = saves.restore(sharding.with_layout(shapes(state), target))
        assert meta == {"next_index": 112}
        jax.tree.map(np.testing.assert_array_equal, restored, state)
        assert jax.tree.map(lambda x: x.dtype, restored) == jax.tree.map(lambda x: x.dtype, state)
        # Equal as placements: orbax gives a spec without its trailing Nones.
        jax.tree.map(
            lambda x, at: x.sharding.is_equivalent_to(at, x.ndim) or pytest.fail(at), restored, target
        )
    saves.close()


def test_the_last_steps_and_multiples_of_keep_every_are_kept(tmp_path):
    save_all(tmp_path, Checkpointing(every_minutes=None, keep_last=2, keep_every=4), range(1, 8))
    assert checkpoint.saved_steps(tmp_path) == [4, 6, 7]
    assert names(tmp_path) == ["4", "6", "7"]


def test_a_step_that_is_there_is_not_saved_again(tmp_path):
    saves = Checkpoints(tmp_path, EVERY)
    for value in (1.0, 2.0):
        saves.save(5, small(value), {"value": value})
        saves.wait()
    restored, meta = saves.restore(shapes(small()))
    saves.close()
    assert meta == {"value": 1.0} and restored["params"]["w"][0] == 1.0


def test_saves_are_due_by_steps(tmp_path):
    saves = Checkpoints(tmp_path, Checkpointing(every_steps=3, every_minutes=None))
    assert [step for step in range(1, 10) if saves.due(step)] == [3, 6, 9]
    saves.close()


def test_saves_are_due_by_minutes_since_the_last_one(tmp_path, monkeypatch):
    now_s = 1000.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now_s)
    saves = Checkpoints(tmp_path, Checkpointing(every_minutes=2.0))
    now_s += 119
    assert not saves.due(1)
    now_s += 2
    assert saves.due(2)
    saves.save(2, small(), {})
    assert not saves.due(3)
    now_s += 121
    assert saves.due(4)
    saves.close()


def test_clocks_of_several_processes_are_compared_now_and_then_and_the_first_decides(tmp_path, monkeypatch):
    saves, asked = Checkpoints(tmp_path, Checkpointing(every_minutes=1e-9)), []

    def of_the_first(mine):
        asked.append(mine)
        return len(asked) == 2

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.jax, "process_count", lambda: 2)
        patched.setattr(checkpoint.multihost_utils, "broadcast_one_to_all", of_the_first)
        assert [step for step in range(1, 61) if saves.due(step)] == [40]
    assert asked == [True] * 3
    saves.close()


def test_half_written_steps_are_neither_listed_nor_restored(tmp_path):
    save_all(tmp_path, EVERY, [1, 2])
    for name in ("3.orbax-checkpoint-tmp", "3.orbax-checkpoint-tmp-12"):
        (tmp_path / name / "params").mkdir(parents=True)
    assert checkpoint.saved_steps(tmp_path) == [1, 2]
    saves = Checkpoints(tmp_path, EVERY)
    assert saves.latest() == 2
    saves.close()


def test_there_are_no_steps_where_there_is_no_directory(tmp_path):
    assert checkpoint.saved_steps(tmp_path / "nothing") == []


def test_parameters_are_restored_without_the_rest(tmp_path):
    save_all(tmp_path, EVERY, [1, 2])
    # Damage what should not be read.
    for item in ("rest", "meta"):
        for path in (tmp_path / "1" / item).rglob("*"):
            if path.is_file():
                path.write_bytes(b"damaged")
    mesh = sharding.make_mesh(MeshShape())
    wanted = {"w": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=sharding.replicated(mesh))}
    restored = checkpoint.restore_params(tmp_path, wanted, 1)
    np.testing.assert_array_equal(restored["w"], np.full(4, 1.0))
    assert restored["w"].sharding == sharding.replicated(mesh)


@pytest.mark.parametrize(
    "wanted", [{"w": (5,)}, {"w": (2, 2)}, {"v": (4,)}, {"w": (4,), "v": (4,)}, {"w": {"v": (4,)}}], ids=str
)
def test_parameters_of_another_shape_or_structure_are_refused(tmp_path, wanted):
    save_all(tmp_path, EVERY, [1])
    wanted = jax.tree.map(
        lambda sizes: jax.ShapeDtypeStruct(sizes, jnp.float32), wanted, is_leaf=lambda x: isinstance(x, tuple)
    )
    with pytest.raises(ValueError, match="step 1 of .* does not fit the config beside it"):
        checkpoint.restore_params(tmp_path, wanted, 1)


DAMAGED = """
import pathlib, sys
import jax, jax.numpy as jnp, numpy as np
from mmjax.checkpoint import Checkpointing, Checkpoints

directory = pathlib.Path(sys.argv[1])
moment = jnp.asarray(np.random.default_rng(0).normal(size=2**12))  # what is small is kept in the index
state = {"params": {"w": jnp.zeros(4)}, "moment": moment}
saves = Checkpoints(directory, Checkpointing(every_minutes=None))
for step in (1, 2):
    saves.save(step, state, {})
saves.wait()
for path in (directory / "2" / "rest").rglob("d/*"):
    path.write_bytes(b"damaged")
try:
    saves.restore(jax.eval_shape(lambda: state))
except ValueError as error:
    print(error)
"""


def told_by(program, directory):
    """The only line that a program prints. It has its own process, as threads of orbax outlive an error."""
    child = [sys.executable, "-c", program, str(directory)]
    (told,) = subprocess.run(child, capture_output=True, text=True, timeout=300).stdout.splitlines()
    return told


def test_a_damaged_step_is_refused_with_the_steps_beside_it(tmp_path):
    told = told_by(DAMAGED, tmp_path)
    assert re.fullmatch(r"step 2 of \S+ is damaged: .*Error reading .*; other steps there: \[1\]; .*", told)


FAILED_SAVE = """
import pathlib, resource, sys
import jax.numpy as jnp, numpy as np
from mmjax.checkpoint import Checkpointing, Checkpoints

saves = Checkpoints(pathlib.Path(sys.argv[1]), Checkpointing(every_minutes=None))
saves.save(1, {"params": {"w": jnp.ones(4)}, "step": jnp.int32(3)}, {})
saves.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))  # no file may grow beyond 64 KiB
large = jnp.asarray(np.random.default_rng(0).normal(size=2**16))
try:
    saves.save(2, {"params": {"w": large}, "step": jnp.int32(3)}, {})
    saves.wait()
except ValueError as error:
    print(error)
"""


def test_a_failed_save_says_so_and_leaves_the_steps_before_it(tmp_path):
    told = told_by(FAILED_SAVE, tmp_path)
    assert re.search("could not be written to .* too large", told)
    assert "kept: steps [1]; free space, then run the same command again" in told
    assert checkpoint.saved_steps(tmp_path) == [1]
    again = Checkpoints(tmp_path, EVERY)
    restored, _ = again.restore(shapes(small()))
    assert restored["params"]["w"][0] == 1.0
    # What the failed save left is not in the way.
    again.save(2, small(2.0), {})
    again.wait()
    again.close()
    assert names(tmp_path) == ["1", "2"]


@pytest.mark.parametrize(
    "fields", [dict(keep_last=0), dict(every_steps=0), dict(every_minutes=-1.0), dict(keep_every=0)], ids=str
)
def test_impossible_values_are_refused(fields):
    with pytest.raises(ValueError, match=f"{next(iter(fields))}="):
        Checkpointing(**fields)


def best_of(directory, metric, found):
    """The steps in `best` after a run for each list of values of val/a/r1, one a step, from step 1 on."""
    step = 0
    for values in found:
        saves = Checkpoints(directory / "checkpoints", Checkpointing(every_minutes=None, best=metric))
        for value in values:
            step += 1
            saves.save_if_best(
                step, small(step) | {"ema": {"w": jnp.full(4, -step)}}, {"val/a/r1": value}, {}
            )
        saves.wait()
        saves.close()
        yield checkpoint.saved_steps(directory / "best")


def test_the_best_weights_by_a_metric_are_kept_over_a_stop(tmp_path):
    found = [[0.3, 0.5, 0.4], [0.5, 0.2], [0.6]]
    assert list(best_of(tmp_path, "val/a/r1", found)) == [[2], [2], [6]]
    wanted = shapes(small()["params"])
    for item, sign in (("params", 1), ("ema", -1)):
        restored = checkpoint.restore_params(tmp_path / "best", wanted, 6, item=item)
        np.testing.assert_array_equal(restored["w"], np.full(4, sign * 6.0))


def test_a_minus_keeps_the_lowest_and_other_metrics_keep_nothing(tmp_path):
    assert list(best_of(tmp_path, "-val/a/r1", [[0.3, 0.5, 0.2, 0.4]])) == [[3]]
    assert list(best_of(tmp_path / "other", "val/b/r1", [[0.3]])) == [[]]


def test_an_average_comes_back_with_the_state(tmp_path):
    state = small(1.0) | {"ema": {"w": jnp.full(4, 2.0)}}
    saves = Checkpoints(tmp_path, EVERY)
    saves.save(1, state, {})
    saves.wait()
    restored, _ = saves.restore(shapes(state))
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert names(tmp_path / "1" / "ema")
    saves.close()
